"""`segsearch audit` on a study file."""

from __future__ import annotations

import json
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState
from typer.testing import CliRunner

from search.cli import app
from search.engine.study_file import STUDY_NAME, close_storage, open_storage

CURVES = {  # backbone, head -> the learning curves of its trials; those of nine epochs ran to the end
    ("convnext_tiny", "upernet"): [[0.1 * n * epoch / 9 for epoch in range(1, 10)] for n in range(1, 6)]
    + [[0.05], [0.04, 0.1, 0.15]],
    ("swin_tiny", "mask_classification"): [[0.3] * 9],
}


@pytest.fixture
def searched(tmp_path: Path) -> Path:
    """A run directory with the study of a search that has ended."""
    storage = open_storage(tmp_path / "study.db")
    study = optuna.create_study(study_name=STUDY_NAME, storage=storage, direction="maximize")
    for (backbone, head), curves in CURVES.items():
        for curve in curves:
            trial = study.ask()
            trial.set_user_attr("identity", {"recipe": {"backbone": {"name": backbone}, "head": {"name": head}}})
            for epoch, miou in enumerate(curve, start=1):
                trial.report(miou, epoch)
            study.tell(trial, max(curve)) if len(curve) == 9 else study.tell(trial, state=TrialState.PRUNED)
    close_storage(storage)
    search = "search: {num_trials: 8, max_epochs: 9, grace_epochs: 1, reduction_factor: 3}"
    model = "model: {backbone: convnext_atto, head: {name: segformer}}"
    (tmp_path / "space.yaml").write_text(f"{model}\n{search}\n", encoding="utf-8")
    (tmp_path / "run.json").write_text("{}", encoding="utf-8")
    return tmp_path


def test_the_whole_study_is_audited(searched: Path) -> None:
    done = CliRunner().invoke(app, ["audit", str(searched), "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert (found["epochs_run"], found["epochs_saved"]) == (5 * 9 + 1 + 3 + 9, 8 + 6)
    assert [(one["trial"], one["bracket"], one["epoch"]) for one in found["stopped"]] == [
        ("00005", "convnext", 1),
        ("00006", "convnext", 3),
    ]
    assert [(rung["bracket"], rung["epoch"], rung["rank_correlation"]) for rung in found["rungs"]] == [
        *(("convnext", epoch, 1.0) for epoch in (1, 3, 9)),
        *(("swin/masks", epoch, None) for epoch in (1, 3, 9)),
    ]
    assert found["grace_epochs"] == 1


def test_the_terminal_tells_what_was_saved_and_lost(searched: Path) -> None:
    said = CliRunner().invoke(app, ["audit", str(searched)]).stdout
    assert "epochs: 58 trained, 14 of 72 saved by stopping early" in said
    assert "convnext, epoch 3 against the final score: rank correlation +1.00 (5 trials)" in said
    assert "swin/masks, epoch 3 against the final score: too few to tell (1 trials)" in said
    assert "search.grace_epochs=1" in said


def test_a_run_without_a_study_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("{}", encoding="utf-8")
    done = CliRunner().invoke(app, ["audit", str(tmp_path)])
    assert done.exit_code == 2
    assert "the study of a run must exist" in done.stderr


def test_what_stopped_trials_came_to_is_told(searched: Path) -> None:
    more = {"00005": {str(epoch): 0.9 for epoch in range(2, 10)}, "00006": {"4": 0.1}}
    (searched / "audit.json").write_text(json.dumps({"mious": more}), encoding="utf-8")
    said = CliRunner().invoke(app, ["audit", str(searched)]).stdout
    assert "trial 00005 (convnext): 100%, mIoU 0.0500 at epoch 1, trained on to 0.9000" in said
    assert "2 of 2 stopped trials, drawn at random, were trained on: 1 became the best of their bracket" in said
    assert "epochs: 58 trained, 14 of 72 saved by stopping early" in said


def test_training_on_is_refused_before_ray_starts(searched: Path) -> None:
    done = CliRunner().invoke(app, ["audit", str(searched), "--address", "auto"])
    assert (done.exit_code, "--address goes with --train-on" in done.stderr) == (2, True)
    record = {"asked": {"space": "s", "data": None, "assignments": [], "profile": None}, "card": "c"}
    record |= {"data_fingerprint": "d", "versions": {}, "stages": {}, "started": "2026-01-01T00:00:00+00:00"}
    (searched / "run.json").write_text(json.dumps(record), encoding="utf-8")
    done = CliRunner().invoke(app, ["audit", str(searched), "--train-on", "2"])
    assert (done.exit_code, "--train-on needs a run whose search is done" in done.stderr) == (2, True)
