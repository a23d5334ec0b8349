"""Pseudo labels of a run with folds: no student, and no teacher of one, has seen the labels that judge it."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import pytest

from analysis.ensembling.pseudo_options import PseudoOptions
from analysis.ensembling.pseudo_result import PseudoResult
from analysis.pseudo_labels.lineage import PseudoLabels
from search.run_dir import RunDir
from search.students import pseudo, pseudo_round
from search.students.finished_run import FinishedRun, open_finished
from search.students.pseudo_plans import make_plans
from search.students.pseudo_steps import InSequence, Setting
from trainables.fit_student import StudentRecord

OPTIONS = PseudoOptions(
    rule="soft_vote", target_precision=0.0, min_certain=0.01, cap=1000.0, epochs=1, schedule="continue"
)


@pytest.fixture
def finished(folded_run: Path) -> FinishedRun:
    return open_finished(RunDir(folded_run), folded_run.parent / "cache", say=print, now=datetime.now)


def test_plans_share_no_label_with_what_judges_them(finished: FinishedRun) -> None:
    plans, split = make_plans(finished, OPTIONS), finished.context.data.split
    labelled = {*split.train_ids, *split.val_ids}
    assert sorted(plans.judged_ids) == sorted(labelled)  # each image once
    for fold, plan in enumerate(plans.judged):
        assert plan.plain.weights.name == f"fold-{fold}.safetensors"
        assert {*plan.split.train_ids, *plan.split.val_ids} == labelled - set(plan.judged)
        assert set(plan.teacher.facts(finished).train_ids) == labelled - set(plan.judged)
        assert set(plan.teacher.measured_on(finished)) == labelled - set(plan.judged)
    assert plans.shipped is not None
    assert plans.shipped.plain.weights.name == "refit.safetensors"
    assert set(plans.shipped.split.train_ids) == labelled
    assert set(plans.shipped.teacher.facts(finished).train_ids) == labelled


def test_a_trial_without_fold_models_is_refused(finished: FinishedRun) -> None:
    assert make_plans(finished, OPTIONS.model_copy(update={"trial": "1"})).judged[0].plain.trial == "00001"
    with pytest.raises(ValueError, match=r"trained once per fold, got '7'; choose one of: 00000, 00001"):
        make_plans(finished, OPTIONS.model_copy(update={"trial": "7"}))


def test_a_gain_is_cross_fitted_and_every_round_keeps_folds_apart(
    finished: FinishedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pseudo_round, "holds", lambda step, confidence: True)  # so that there is a second round
    asked = OPTIONS.model_copy(update={"rounds": 2})
    result = pseudo.run(InSequence(Setting(finished, asked, "cpu", 1)), tmp_path)
    assert len(result.rounds) == 2
    assert all("out of fold" in one.reason for one in result.rounds)
    assert result.gain_crossfit is not None
    assert result.comparison is not None
    plans = make_plans(finished, asked)
    for number in (1, 2):
        for plan in plans.judged:
            folder = tmp_path / f"round-{number}" / plan.name
            labels = PseudoLabels.read(folder / "labels")
            about = StudentRecord.model_validate_json((folder / "student" / "best.json").read_bytes())
            assert not set(about.train_ids) & set(plan.judged)
            assert not set(labels.teacher.train_ids) & set(plan.judged)
            assert not set(labels.measured_on) & set(plan.judged)
        whole = StudentRecord.model_validate_json(
            (tmp_path / f"round-{number}" / "whole" / "student" / "best.json").read_bytes()
        )
        assert set(plans.judged_ids) < set(whole.train_ids)
    assert PseudoResult.read(tmp_path / "pseudo.json") == result
