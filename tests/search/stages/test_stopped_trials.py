"""Stopped trials that are trained on, as Ray tasks, beside a study whose trial was stopped after one epoch."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from search.cluster.run_files import MARKER, files_of
from search.engine.study_audit import audit_study, read_trained_on
from search.engine.study_file import STUDY_NAME, close_storage, open_storage, open_study
from search.run_dir import RunDir
from search.space.options import Options
from search.stages import stopped_trials
from search.stages.stage import Context
from trainables.data.cache import Cache
from trainables.data.card import read_card
from trainables.data.reader import read
from trainables.data.splits.make_split import make_split
from trainables.data.synthetic.dataset import write_synthetic
from trainables.recipe.augmentation import Augmentation
from trainables.recipe.recipe import Backbone, Recipe, SegFormerHead, Train
from trainables.training.fit import Trial, fit

EPOCHS = 3


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A run of one whole trial, three that were stopped after an epoch, the last of which lost its checkpoint; what was
    said; and trial -> its whole curve."""
    root = tmp_path_factory.mktemp("stopped")
    index = read(read_card(write_synthetic(root / "data", num_images=18, image_px=64, seed=0)))
    cache, split = Cache.open(index, root / "cache"), make_split(index, seed=0)
    storage = open_storage(root / "study.db")
    study = optuna.create_study(study_name=STUDY_NAME, storage=storage, direction="maximize")
    curves, said = dict[str, dict[int, float]](), list[str]()
    for number in range(4):
        recipe, folder = recipe_of(number), root / "tune" / f"{number:05d}"
        curve = curves[folder.name] = train(Trial(recipe, cache, split, folder, "cpu"))
        trial, ran = study.ask(), EPOCHS if number == 0 else 1
        trial.set_user_attr("identity", {"recipe": recipe.model_dump(mode="json"), "hash": "", "family": "resnet"})
        trial.set_user_attr("progress", {"epochs": ran, "device_s": 1800.0 * ran})
        trial.set_user_attr("checkpoint", {"path": f"tune/{number:05d}/epoch-{ran:04d}", "epoch": ran})
        for epoch in range(1, ran + 1):
            trial.report(curve[epoch], epoch)
        study.tell(trial, max(curve.values())) if number == 0 else study.tell(trial, state=TrialState.PRUNED)
    close_storage(storage)
    shutil.rmtree(root / "tune/00003/epoch-0001")
    space: Any = SimpleNamespace(options=Options.model_validate({"search": {"max_epochs": EPOCHS, "grace_epochs": 1}}))
    data: Any = SimpleNamespace(index=index, split=split, cache=cache)
    return SimpleNamespace(
        context=Context(RunDir(root), space, data, said.append, datetime.now), said=said, curves=curves
    )


def recipe_of(seed: int) -> Recipe:
    return Recipe(
        backbone=Backbone(name="test_resnet", pretrained=False),
        head=SegFormerHead(channels=16),
        augmentation=Augmentation(crop_px=32),
        train=Train(num_epochs=EPOCHS, batch_size=2, num_workers=0),
        seed=seed,
    )


def train(trial: Trial) -> dict[int, float]:
    """Its whole curve; all epochs' folders stay."""
    curve: dict[int, float] = {}
    fit(trial, lambda done: curve.__setitem__(done.epoch, done.metrics["val/miou"]))
    return curve


@pytest.fixture
def blind(local_ray: None, stopped: Any, tmp_path: Path) -> Iterator[Context]:
    """The context as on nodes that do not see the run's folder: no process sees its marker."""
    run = stopped.context.run
    with files_of(run, "here", tmp_path, at_uri=True, say=print) as files:
        (hidden,) = run.root.glob(f"{MARKER}*")
        hidden.unlink()
        yield replace(stopped.context, run_files=files)
        hidden.touch()


def test_stopped_trials_are_trained_on_once_and_the_audit_knows_them(stopped: Any, blind: Context) -> None:
    context, said = stopped.context, stopped.said
    first = [one.trial for one in stopped_trials.in_random_order(context)]
    assert sorted(first) == ["00001", "00002"]  # one has no checkpoint
    stopped_trials.run(context, 1)
    assert said[0] == f"training on {first[0]}: about 1.00 device-hours"
    stopped_trials.run(blind, 2)
    assert said[-2] == f"training on {first[1]}: about 1.00 device-hours"
    found = read_trained_on(context.run).mious
    assert found == {trial: {epoch: stopped.curves[trial][epoch] for epoch in (2, 3)} for trial in first}
    assert not any(context.run.audit.iterdir())
    stopped_trials.run(context, 2)
    assert said[-1] == "the 2 stopped trials that were drawn were trained on before"

    audit = audit_study(open_study(context.run.study_db), context.space.options.search, found)
    assert audit is not None
    best = max(stopped.curves["00000"].values())
    came_to = {one.trial: (one.final, one.win_probability) for one in audit.stopped}
    for trial in first:
        final = max(stopped.curves[trial].values())
        assert came_to[trial] == (final, float(final > best))
    assert came_to["00003"] == (None, None)
    assert (audit.epochs_run, audit.epochs_saved) == (EPOCHS + 3, 3 * (EPOCHS - 1))


def test_a_broken_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "audit.json").write_text('{"mious": {"00001": {"x": 1}}}', encoding="utf-8")
    with pytest.raises(ValueError, match=r"must hold epochs of stopped trials.*remove it"):
        read_trained_on(RunDir(tmp_path))
