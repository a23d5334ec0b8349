"""A stopped trial that is trained on comes to what it would have come to."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from trainables.data.cache import Cache
from trainables.data.card import read_card
from trainables.data.reader import read
from trainables.data.splits.make_split import make_split
from trainables.data.synthetic.dataset import write_synthetic
from trainables.recipe.augmentation import Augmentation
from trainables.recipe.recipe import Backbone, Optimizer, Recipe, SegFormerHead, Train
from trainables.train_on import train_on
from trainables.training.attempt import EpochReport
from trainables.training.fit import Trial, fit


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A trial of four epochs, its curve, and the checkpoint of its first epoch."""
    root = tmp_path_factory.mktemp("whole")
    index = read(read_card(write_synthetic(root / "data", num_images=18, image_px=64, seed=0)))
    recipe = Recipe(
        backbone=Backbone(name="test_resnet", pretrained=False),
        head=SegFormerHead(channels=16),
        augmentation=Augmentation(crop_px=32),
        optimizer=Optimizer(lr=3e-3),
        train=Train(num_epochs=4, batch_size=2, num_workers=0),
    )
    curve: dict[int, float] = {}

    def keep(done: EpochReport) -> None:
        curve[done.epoch] = done.metrics["val/miou"]
        if done.epoch == 1:
            shutil.copytree(done.checkpoint_dir, root / "stopped")

    trial = Trial(recipe, Cache.open(index, root / "cache"), make_split(index, seed=0), root / "trial", "cpu")
    fit(trial, keep)
    return SimpleNamespace(trial=trial, curve=curve, stopped=root / "stopped")


def trial_in(folder: Path, whole: Any) -> Trial:
    return Trial(whole.trial.recipe, whole.trial.cache, whole.trial.split, folder, "cpu")


def test_it_comes_to_what_an_uninterrupted_trial_does(whole: Any, tmp_path: Path) -> None:
    before = sorted(path.name for path in whole.stopped.iterdir())
    found = train_on(trial_in(tmp_path, whole), whole.stopped)
    assert found == {epoch: miou for epoch, miou in whole.curve.items() if epoch > 1}
    assert sorted(path.name for path in whole.stopped.iterdir()) == before


@pytest.mark.parametrize("readings", [1, 4])  # two an epoch: within the first one, and before the last
def test_cut_off_it_goes_on(whole: Any, tmp_path: Path, readings: int) -> None:
    left = iter(range(readings))

    def clock() -> float:
        if next(left, None) is None:
            raise KeyboardInterrupt
        return 0.0

    trial = trial_in(tmp_path, whole)
    with pytest.raises(KeyboardInterrupt):
        train_on(trial, whole.stopped, clock=clock)
    assert train_on(trial, whole.stopped) == {epoch: miou for epoch, miou in whole.curve.items() if epoch > 1}
