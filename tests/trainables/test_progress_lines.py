"""What is shown of a long loop."""

from __future__ import annotations

import io

import pytest
from factories import Clock

from trainables.progress_lines import duration, progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0s"), (59.7, "1m00s"), (187, "3m07s"), (3600, "1h00m"), (7530, "2h05m")]
)
def test_durations_read_as_people_write_them(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_lines_come_now_and_then_with_rate_and_time_left() -> None:
    out, clock = io.StringIO(), Clock()
    with progress(10, "images", out, clock=clock) as advance:
        clock.now_s = 10.0
        advance(2)
        clock.now_s = 40.0
        advance(2)
        clock.now_s = 50.0
        advance(6)
    assert out.getvalue().splitlines() == [
        "4/10 images, 0.10 images/s, 40s, about 1m00s left",
        "10/10 images, 0.20 images/s, 50s",
    ]


def test_a_terminal_shows_a_bar() -> None:
    out, clock = Terminal(), Clock()
    with progress(4, "images", out, clock=clock) as advance:
        clock.now_s = 2.0
        advance(4)
    assert "4/4 images, 2.00 images/s, 2s" in out.getvalue()
    assert "━" in out.getvalue()
