"""What the terminal shows of a search."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

import pytest
from factories import Clock, make_row, make_time_left
from rich.console import Console

from search.observers.progress import LiveTable, PlainLines, build_progress, duration
from search.observers.trial_row import TrialRow


def row(number: int, state: str, miou: float | None = None, **more: Any) -> TrialRow:
    return make_row(number, state, head="upernet", epochs=3, best_miou=miou, best_epoch=2, **more)


ROWS = {0: row(0, "COMPLETE", 0.41), 1: row(1, "RUNNING", 0.2), 2: row(2, "FAIL", error="line\nKeyError: 'stem'")}


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0s"), (59.7, "1m00s"), (187, "3m07s"), (3600, "1h00m"), (7530, "2h05m")]
)
def test_durations_read_as_people_write_them(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_line_a_trial_end_with_counts_best_and_time_left() -> None:
    out, clock, rows = io.StringIO(), Clock(), {1: ROWS[1]}
    lines = PlainLines(make_time_left(after_s=90.0), clock=clock, stream=out)
    lines.begin(rows, 8)
    rows[0] = ROWS[0]
    lines.trial_started(rows[0])
    clock.now_s = 60.0
    lines.epoch(rows[0], {})
    lines.trial_ended(rows[0])
    rows[2] = ROWS[2]
    lines.trial_ended(rows[2])
    known = "1 running, best mIoU 0.4100 (00000), 1m00s, about 24m30s left, then about 1m30s of other stages]"
    model = "convnext_atto + upernet, 3 epochs"
    assert out.getvalue().splitlines() == [
        "0/8 trials, 1 running, waiting for the first worker to start, best mIoU 0.2000 (00001), 0s",
        f"trial 00000 COMPLETE: {model}, best mIoU 0.4100 at epoch 2 [1/8 trials, {known}",
        f"trial 00002 FAIL: {model} (KeyError: 'stem') [2/8 trials, {known}",
    ]


def test_a_trial_that_ends_no_epoch_is_named_and_no_time_left_is_promised() -> None:
    rows, clock = {0: row(0, "RUNNING"), 1: row(1, "RUNNING"), 2: row(2, "COMPLETE", 0.4)}, Clock()
    lines = PlainLines(make_time_left(), clock=clock, stream=io.StringIO())
    lines.begin(rows, 8)
    for number in (0, 1, 2):
        lines.trial_started(rows[number])
    clock.now_s = 200.0
    lines.trial_ended(rows[2])
    for clock.now_s in (200.0, 400.0, 600.0):
        lines.epoch(rows[0], {})
    assert "left" in lines.summary()  # three times the longest wait are 600 s
    clock.now_s = 601.0
    assert "stalled: 00001 ended no epoch for 10m01s (search.trial_timeout_s" in lines.summary()
    assert "left" not in lines.summary()
    lines.epoch(rows[1], {})
    assert "stalled" not in lines.summary()


def test_a_search_without_a_running_trial_is_stalled_too() -> None:
    clock = Clock()
    lines = PlainLines(make_time_left(), clock=clock, stream=io.StringIO())
    lines.begin({0: row(0, "COMPLETE", 0.4)}, 8)
    clock.now_s = 301.0
    assert "stalled: no trial has run for 5m01s" in lines.summary()


def test_plain_line_comes_every_so_many_seconds() -> None:
    out, clock = io.StringIO(), Clock()
    lines = PlainLines(make_time_left(), clock=clock, every_s=30.0, stream=out)
    lines.begin({}, 8)
    for now_s in (1.0, 29.0, 31.0, 45.0, 62.0):
        clock.now_s = now_s
        lines.tick()
    waits = "0/8 trials, 0 running, waiting for the first worker to start"
    assert out.getvalue().splitlines() == [f"{waits}, 0s", f"{waits}, 31s", f"{waits}, 1m02s"]


def test_table_shows_running_trials_first_then_the_best() -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=120)
    table = LiveTable(make_time_left(), clock=Clock(), console=console)
    table.begin(ROWS, 8)
    table.trial_ended(ROWS[0])
    table.end()
    plain = io.StringIO()  # without the cursor's movements
    Console(file=plain, width=120).print(table.render())
    text = plain.getvalue()
    assert text.index("00001") < text.index("00000") < text.index("00002")
    assert "2/8 trials, 1 running, best mIoU 0.4100 (00000)" in text
    assert "00001" in out.getvalue()


def test_long_tables_say_what_they_leave_out() -> None:
    rows = {number: row(number, "COMPLETE", 0.1) for number in range(40)}
    table, plain = LiveTable(make_time_left(), clock=Clock(), console=Console(file=io.StringIO())), io.StringIO()
    table.begin(rows, 40)
    Console(file=plain, width=120).print(table.render())
    table.end()
    assert "and 25 more" in plain.getvalue()


def test_a_pipe_gets_lines_and_a_terminal_the_table() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    assert isinstance(build_progress(make_time_left(), io.StringIO(), clock=Clock()), PlainLines)
    assert isinstance(build_progress(make_time_left(), Terminal(), clock=Clock()), LiveTable)


class Watched(dict[int, TrialRow]):
    """Rows that count how often all of them are looked at."""

    num_scans = 0

    def values(self) -> Any:
        self.num_scans += 1
        return super().values()


def test_a_trial_s_end_looks_at_no_other_trial() -> None:
    rows, clock = Watched({number: row(number, "COMPLETE", 0.4) for number in range(3)}), Clock()
    left = replace(make_time_left(), after_s=lambda rows: float(len(rows.values())))
    lines = PlainLines(left, clock=clock, stream=io.StringIO())
    lines.begin(rows, 40)
    begun = rows.num_scans
    for number in range(3, 33):
        rows[number] = row(number, "COMPLETE", number / 100)
        lines.trial_started(rows[number])
        lines.epoch(rows[number], {})
        lines.trial_ended(rows[number])
    assert rows.num_scans == begun + 1  # the later stages' time, once in `every_s`
    assert lines.summary().startswith("33/40 trials, 0 running, best mIoU 0.4000 (00000)")
