"""Which recipes are trained on folds, for how long, what is said of it, and what a failure costs."""

from __future__ import annotations

import shutil
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import optuna
import pytest

from search.cluster.run_files import RunFiles
from search.engine.study_file import STUDY_NAME, close_storage, open_storage
from search.run_dir import RunDir
from search.space.options import Options
from search.stages import folds as folds_module
from search.stages import run_data, soups
from search.stages.ensemble import forms_of
from search.stages.folds import announce, chosen_candidates, judged_split, offer, plan_folds, run
from search.stages.stage import Context
from trainables.data.index import ImageRecord, SegIndex, Split
from trainables.data.splits.folds import deal_folds, write_folds
from trainables.fit_fold import FoldJob, FoldRecord
from trainables.recipe.recipe import Recipe

NAMES = tuple(f"{n}.png" for n in range(12))
SPLIT = Split(NAMES[:7], NAMES[7:10], NAMES[10:], "split")
ON = {"folds": {"num": 3, "recipes": 2}, "ensemble": {"max_per_family": 1}}


def write_study(path: Path, *trials: tuple[str, float, int]) -> None:
    """Trials by backbone, score and best epoch; each took 90 s for 9 epochs."""
    storage = open_storage(path)
    study = optuna.create_study(study_name=STUDY_NAME, storage=storage, direction="maximize")
    for backbone, miou, best_epoch in trials:
        recipe = Recipe.model_validate({"backbone": {"name": backbone, "pretrained": False}, "head": {"name": "fpn"}})
        progress = {"epochs": 9, "best_miou": miou, "best_epoch": best_epoch, "device": "gpu", "device_s": 90.0}
        identity = {"hash": recipe.hash, "family": recipe.family, "recipe": recipe.model_dump(mode="json")}
        attrs = {"identity": identity, "progress": progress, "checkpoint": {"path": str(path.parent)}}
        study.add_trial(optuna.trial.create_trial(value=miou, user_attrs=attrs))
    close_storage(storage)  # so that the file is whole


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three scored trials of two families."""
    path = tmp_path_factory.mktemp("study") / "study.db"
    write_study(path, ("resnet18", 0.5, 4), ("resnet26", 0.4, 9), ("convnext_atto", 0.3, 6))
    return path


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def context(tmp_path: Path, study: Path, said: list[str]) -> Context:
    """A run whose search is done and whose folds are dealt."""
    shutil.copyfile(study, tmp_path / "study.db")
    records = tuple(ImageRecord(name, Path(name), 8, 8, name, "train") for name in NAMES)
    index = SegIndex("tiny", records, ("a", "b"), "data", grouped=False)
    write_folds(tmp_path / "folds.json", deal_folds(index, SPLIT, 3, seed=0))
    space: Any = SimpleNamespace(options=Options.model_validate(ON))
    data = run_data.Data(index, SPLIT, None, tmp_path)  # type: ignore[arg-type]
    return Context(RunDir(tmp_path), space, data, said.append, datetime.now)


def with_options(context: Context, **values: Any) -> Options:
    context.space.options = Options.model_validate(values)  # type: ignore[misc]
    return context.space.options


def test_the_best_recipes_train_for_the_epochs_of_their_best_one(context: Context) -> None:
    plans = plan_folds(context.run, context.space.options)
    assert [(plan.member, plan.recipe.train.num_epochs) for plan in plans] == [("folds-00000", 4), ("folds-00002", 6)]
    assert plans[0].recipe == plans[0].trial.recipe.model_copy(update={"train": plans[0].recipe.train})
    assert plans[0].recipe.hash != plans[0].trial.recipe.hash


def test_the_forecast_is_of_what_trials_took_and_how_many_images_there_are(context: Context) -> None:
    plans = plan_folds(context.run, context.space.options)
    hours = 10.0 * (4 + 6) * (2 * 10 / 7) / 3600  # 10 s an epoch of 7 images; 10 images, each in two of three folds
    assert announce(plans, 3, SPLIT, refit=False) == (
        f"folds: 2 recipes x 3 folds, about {hours:.2f} GPU-hours: 00000 (4 epochs), 00002 (6 epochs)"
    )
    assert announce(plans, 3, SPLIT, refit=True) == (
        f"folds: 2 recipes x 3 folds and a refit, about {1.5 * hours:.2f} GPU-hours: 00000 (4 epochs), 00002 (6 epochs)"
    )


def test_where_folds_are_off_one_line_says_what_they_would_give_and_cost(context: Context, said: list[str]) -> None:
    with_options(context)
    run(context)
    assert len(said) == 1
    assert said[0].startswith("folds: off; with folds.num=5, rules would be fitted on 10 images instead of 3")
    assert said[0].endswith("GPU-hours of training")
    assert said[0] == offer(plan_folds(context.run, context.space.options), SPLIT)
    assert judged_split(context) == SPLIT
    assert [one.trial for one in chosen_candidates(context)] == ["00000", "00001", "00002"]


def test_where_folds_are_on_there_are_no_soups(context: Context, said: list[str]) -> None:
    soups.run(context)
    assert said == ["soups: none where folds are on, whose members are the candidates"]


def test_rules_are_fitted_on_every_image_outside_the_hold_out(context: Context) -> None:
    split = judged_split(context)
    assert (split.train_ids, split.val_ids, split.holdout_ids) == ((), NAMES[:10], SPLIT.holdout_ids)
    assert split.fingerprint == SPLIT.fingerprint


def fit_one(job: FoldJob, _cache: Any, files: RunFiles, cpu: float, gpu: float) -> FoldRecord:
    """In place of the training: weights that nobody reads; the second member's fold 1 fails."""
    if (job.member, job.fold) == ("folds-00002", 1):
        raise ValueError("the loss is not finite")
    return write_done(job, files.run.fold_models(job.member))


def without_refits(job: FoldJob, _cache: Any, files: RunFiles, cpu: float, gpu: float) -> FoldRecord:
    if job.fold is None:
        raise ValueError("no room")
    return write_done(job, files.run.fold_models(job.member))


def without_training(job: FoldJob, _cache: Any, files: RunFiles, cpu: float, gpu: float) -> FoldRecord:
    return write_done(job, files.run.fold_models(job.member))


def write_done(job: FoldJob, folder: Path) -> FoldRecord:
    record = FoldRecord(
        recipe=job.recipe,
        classes=("a", "b"),
        miou=None if job.fold is None else 0.25,
        epoch=job.recipe.train.num_epochs,
        data_fingerprint="data",
        split_fingerprint=job.run_split,
        train_ids=job.split.train_ids,
    )
    folder.mkdir(parents=True, exist_ok=True)
    weights = folder / job.weights_name
    weights.with_suffix(".json").write_text(record.model_dump_json())
    weights.write_text(f"{folder.name} {job.fold}")
    return record


def test_a_recipe_whose_fold_fails_is_named_and_left_out_and_what_is_done_stays(
    local_ray: None, context: Context, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folds_module, "fit_one", fit_one)
    run(context)
    [member] = chosen_candidates(context)
    assert (member.trial, member.ingredients) == ("folds-00000", tuple(f"00000 fold {k}" for k in range(3)))
    assert [path.read_text() for path in member.weights] == [f"folds-00000 {k}" for k in range(3)]
    assert "warning: folds-00002 is left out of the ensemble: its fold 1 failed: the loss is not finite" in said
    assert member.refit
    assert member.shipped_weights == member.weights
    done = [line for line in said if line.startswith("folds-00000 fold")]
    assert len(done) == 3
    assert "mIoU 0.2500 on its" in done[0]
    said.clear()
    checkpoints = member.checkpoint / "fold-1" / "epoch-0001"  # left by a process that ended right after the weights
    checkpoints.mkdir(parents=True)
    run(context)
    assert not checkpoints.parent.exists()
    assert any("of 8 models were trained before" in line for line in said)
    assert not any(line.startswith("folds-00000 fold") for line in said)


@pytest.mark.parametrize(("ship", "members"), [("mean", 2), ("refit", 0)])
def test_a_refit_that_fails_costs_the_member_only_where_refits_ship(
    local_ray: None, context: Context, said: list[str], monkeypatch: pytest.MonkeyPatch, ship: str, members: int
) -> None:
    with_options(context, folds=ON["folds"] | {"ship": ship}, ensemble=ON["ensemble"])
    monkeypatch.setattr(folds_module, "fit_one", without_refits)
    if members:
        run(context)
        assert "warning: folds-00000 stays without a refit, which failed: no room" in said
    else:
        with pytest.raises(ValueError, match="got none of 2: folds-00000: refit: no room; folds-00002: refit: no room"):
            run(context)
    found = folds_module.fold_members(context)
    assert len(found) == members
    assert forms_of(found) == (["mean"] if members else ["refit", "mean"])


def test_a_refit_ships_where_the_space_says_so(
    local_ray: None, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_options(context, folds={"num": 3, "recipes": 1, "ship": "refit"})
    monkeypatch.setattr(folds_module, "fit_one", without_training)
    run(context)
    [member] = found = chosen_candidates(context)
    [weights] = member.shipped_weights
    assert weights.read_text() == "folds-00000 None"
    record = FoldRecord.model_validate_json(weights.with_suffix(".json").read_bytes())
    assert set(record.train_ids) == {*SPLIT.train_ids, *SPLIT.val_ids}
    assert (len(member.weights), member.parts, forms_of(found)) == (3, ("val", "holdout", "refit"), ["refit", "mean"])


def test_a_run_without_a_member_says_why(local_ray: None, context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise ValueError("no room")

    monkeypatch.setattr(folds_module, "fit_one", fail)
    with pytest.raises(ValueError, match=r"got none of 2: folds-00000: fold \d: no room; folds-00002: fold"):
        run(context)


def test_more_folds_than_images_are_refused_before_a_trial(context: Context, tmp_path: Path) -> None:
    options = with_options(context, folds={"num": 40}, split={"val_share": 0.3})
    data = context.data
    cache = SimpleNamespace(class_pixels_by_image=lambda ids: np.ones((len(ids), 2), np.int64), image=None)
    index = SegIndex("tiny", data.index.images, ("a", "b"), "data", grouped=True)
    with pytest.raises(ValueError, match=r"folds\.num must not exceed .* got 40 and \d+; use 2 to \d+, or 0"):
        run_data.split_data(index, cache, options, print)  # type: ignore[arg-type]
