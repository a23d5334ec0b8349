from __future__ import annotations

from typing import Any

from analysis.report.leaderboard import Entry, leaderboard


def entry(trial: str, family: str, val: float | None, **changes: Any) -> Entry:
    values = {"model": "m", "epochs": 3, "stopped": False, "device": "cpu", "device_s": 10.0} | changes
    return Entry(trial=trial, family=family, val=val, **values)


def test_a_family_stands_by_its_best_trial_and_counts_all() -> None:
    entries = [entry("0", "swin", 0.4), entry("1", "convnext", None, stopped=True), entry("2", "convnext", 0.5)]
    rows = leaderboard([*entries, entry("3", "vit", None)], ["2"], {"2": 0.55}, {"convnext": 0.75})
    assert [(row.family, row.best.trial) for row in rows] == [("convnext", "2"), ("swin", "0"), ("vit", "3")]
    first = rows[0]
    assert (first.trials, first.stopped, first.epochs, first.device_s) == (2, 1, 6, 20.0)
    assert (first.tie, first.out_of_fold, first.share) == (True, 0.55, 0.75)
    assert (rows[1].tie, rows[1].out_of_fold, rows[1].share) == (False, None, 0.0)
