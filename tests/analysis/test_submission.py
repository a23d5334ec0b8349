"""The ledger of submissions: what it keeps, and when it warns."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from factories import make_ensemble, make_member, make_score
from typer.testing import CliRunner

from analysis.submission import LEDGER, app, correlations, rank_correlation, read_ledger, record, warnings


def make_run(folder: Path, holdout: float) -> Path:
    folder.mkdir(parents=True)
    result = make_ensemble(("a", "b"), [make_member("1"), make_member("2"), make_member("3")])
    scores = {"val_crossfit": make_score(holdout + 0.01, 2), "holdout": make_score(holdout, 2)}
    rules = tuple(rule.model_copy(update=scores) for rule in result.rules)
    result.model_copy(update={"rules": rules}).write(folder / "ensemble.json")
    return folder


def test_runs_in_one_folder_share_a_ledger(tmp_path: Path) -> None:
    record(make_run(tmp_path / "one", 0.6), 0.7, "2026-01-01")
    rows = record(make_run(tmp_path / "two", 0.5), 0.65, "2026-01-02", private=0.6, note="TTA")
    assert rows == read_ledger(tmp_path)
    assert [(row["run"], row["holdout"], row["public"], row["private"]) for row in rows] == [
        ("one", 0.6, 0.7, None),
        ("two", 0.5, 0.65, 0.6),
    ]


@pytest.mark.parametrize("seed", range(5))
def test_the_rank_correlation_is_spearmans_with_ties(seed: int) -> None:
    first, second = np.random.default_rng(seed).integers(0, 6, (2, 12)) / 10
    ranks = [
        [sum(b < a for b in values) + sum(b == a for b in values) / 2 for a in values] for values in (first, second)
    ]
    assert rank_correlation(first, second) == pytest.approx(np.corrcoef(ranks)[0, 1])  # Pearson's r of mean ranks
    assert rank_correlation([0.5, 0.5], [0.1, 0.2]) is None


def row(run: str, holdout: float, public: float) -> dict[str, object]:
    return {"run": run, "holdout": holdout, "val_crossfit": holdout, "public": public}


def test_a_run_that_leads_in_public_alone_is_warned_of() -> None:
    [words] = warnings([row("steady", 0.60, 0.70), row("lucky", 0.55, 0.72)])
    assert "is that of lucky, but steady is higher on the hold-out" in words
    assert not warnings([row("steady", 0.60, 0.73), row("other", 0.55, 0.72)])


def test_many_submissions_are_warned_of_and_their_correlation_is_said() -> None:
    rows = [row(str(n), 0.5 + n / 100, 0.6 + n / 100) for n in range(5)]
    assert "5 submissions were scored on one public part" in warnings(rows)[0]
    assert "hold-out and public over 5 submissions: +1.00" in correlations(rows)[0]
    assert not warnings(rows[:4])
    assert not correlations(rows[:3])


def test_the_command_records_and_refuses(tmp_path: Path) -> None:
    run = make_run(tmp_path / "one", 0.6)
    done = CliRunner().invoke(app, ["record", "--run", str(run), "--public", "0.8205"])
    assert done.exit_code == 0, done.output
    assert "0.8205" in done.output
    assert json.loads((tmp_path / LEDGER).read_text())["public"] == 0.8205
    for bad in (["--run", str(run), "--public", "82.05"], ["--run", str(tmp_path), "--public", "0.8"]):
        assert CliRunner().invoke(app, ["record", *bad]).exit_code == 2
    assert len(read_ledger(tmp_path)) == 1
