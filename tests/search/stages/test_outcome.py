"""What trackers are told of a run's end."""

from __future__ import annotations

from pathlib import Path

from factories import make_ensemble, make_member

from search.run_dir import RunDir
from search.stages.outcome import outcome_of


def test_the_outcome_has_a_row_per_rule_and_the_verdict(tmp_path: Path) -> None:
    run, ensemble = RunDir(tmp_path), make_ensemble(["sky", "car"], [make_member("00000"), make_member("00001")])
    ensemble.write(run.ensemble_json)
    outcome = outcome_of(run)
    assert outcome.verdict == ensemble.verdict.sentence
    assert [row["rule"] for row in outcome.rules] == [rule.name for rule in ensemble.rules]
    assert [row["mIoU hold-out"] for row in outcome.rules] == [rule.holdout.miou for rule in ensemble.rules]
    assert (outcome.bundle, outcome.report) == (run.bundle, run.report)
