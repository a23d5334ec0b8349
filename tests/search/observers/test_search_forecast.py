"""The time left of a search, against what was left when it had ended."""

from __future__ import annotations

import pytest
from factories import make_row

from search.observers.search_forecast import Lengths, SearchForecast


def test_before_an_epoch_has_ended_nothing_is_promised() -> None:
    forecast = SearchForecast(Lengths(3.0, 9))
    forecast.begin({}, 4)
    assert forecast.left_s(100.0) is None


def test_trials_of_one_length_take_what_is_left_of_them_on_both_workers() -> None:
    """Two of six trials run at once, three epochs of 10 s each: 80 s of the 90 are left after the first epochs' end."""
    rows = {number: make_row(number, "RUNNING", epochs=1) for number in (0, 1)}
    forecast = SearchForecast(Lengths(3.0, 3))
    forecast.begin(rows, 6)
    for number in rows:
        forecast.started(number, 0.0)
    for number in rows:
        forecast.epoch(number, 10.0)
    assert forecast.left_s(10.0) == pytest.approx(80.0)


def test_what_is_told_does_not_jump() -> None:
    rows = {0: make_row(0, "RUNNING", epochs=1)}
    forecast = SearchForecast(Lengths(3.0, 9))
    forecast.begin(rows, 40)
    forecast.started(0, 0.0)
    forecast.epoch(0, 10.0)
    before = forecast.left_s(10.0)
    rows[0].state, rows[0].epochs = "COMPLETE", 9
    forecast.ended(0)
    after = forecast.left_s(11.0)
    assert before is not None
    assert after is not None
    assert abs(after - before) < 0.05 * before
