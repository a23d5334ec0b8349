"""A search that has done enough starts no further trial, resumed or not."""

from __future__ import annotations

from typing import Any

import pytest

from search.engine.budget import ENDED_EARLY, why_enough
from search.engine.study_file import open_study
from search.space.options import Search


class Frozen:
    def __init__(self, device_s: float, best_miou: float | None) -> None:
        self.user_attrs = {"progress": {"device_s": device_s, "best_miou": best_miou}}


TRIALS: Any = [Frozen(1800.0, 0.4), Frozen(1800.0, None), Frozen(3600.0, 0.55)]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, None),
        ({"budget_device_hours": 2.0}, "its 2 device-hours are spent (search.budget_device_hours)"),
        ({"budget_device_hours": 2.01}, None),
        ({"until_hours": 0.5}, "its 0.5 hours are over (search.until_hours)"),
        ({"until_hours": 0.51}, None),
        ({"until_miou": 0.55}, "a trial reached 0.5500 mIoU of 0.55 (search.until_miou)"),
        ({"until_miou": 0.56}, None),
    ],
)
def test_each_limit_is_told_with_its_key(options: dict[str, float], said: str | None) -> None:
    assert why_enough(Search(**options), TRIALS, searched_s=1800.0) == said  # type: ignore[arg-type]


def test_a_search_ends_with_the_trial_that_is_good_enough(search_in: Any, tmp_path: Any) -> None:
    rows = search_in(num_trials=6, max_concurrent=1, until_miou=0.5)
    assert [row.best_miou is not None and row.best_miou >= 0.5 for row in rows].index(True) == len(rows) - 1
    assert len(rows) < 6
    assert "search.until_miou" in open_study(tmp_path / "study.db").user_attrs[ENDED_EARLY]
    assert search_in(num_trials=6, max_concurrent=1, until_miou=0.5, resume=True) == rows
    more = search_in(num_trials=6, max_concurrent=1, resume=True)  # without the limit it goes on
    assert len(more) == 6
    assert more[: len(rows)] == rows
