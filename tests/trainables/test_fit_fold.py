"""A fold's model: its last epoch counts, it goes on where it was cut off, and is never trained twice."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from trainables.data.cache import Cache
from trainables.data.card import read_card
from trainables.data.reader import read
from trainables.data.splits.folds import deal_folds
from trainables.data.splits.make_split import make_split
from trainables.data.synthetic.dataset import write_synthetic
from trainables.fit_fold import FoldJob, fit_fold, read_done
from trainables.models.weights_file import load_weights
from trainables.recipe.augmentation import Augmentation
from trainables.recipe.recipe import Backbone, Optimizer, Recipe, SegFormerHead, Train
from trainables.training.checkpoint import snapshots
from trainables.training.fit import Trial, fit


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A job, its cache, and a folder in which it was done without a stop."""
    root = tmp_path_factory.mktemp("fold")
    index = read(read_card(write_synthetic(root / "data", num_images=18, image_px=64, seed=0)))
    cache, split = Cache.open(index, root / "cache"), make_split(index, seed=0)
    recipe = Recipe(
        backbone=Backbone(name="test_resnet", pretrained=False),
        head=SegFormerHead(channels=16),
        augmentation=Augmentation(crop_px=32),
        optimizer=Optimizer(lr=3e-3),
        train=Train(num_epochs=3, batch_size=2, num_workers=0),
    )
    folds = deal_folds(index, split, 2, seed=0)
    job = FoldJob("folds-00000", recipe, 1, folds.split_of(1, index, split), split.fingerprint)
    record = fit_fold(job, cache, root / "whole", device="cpu")
    return SimpleNamespace(job=job, cache=cache, folder=root / "whole", record=record, folds=folds)


def stopping(after: int) -> tuple[Callable[[], float], list[int]]:
    """A clock that is read twice an epoch, and stops the work when it is read once more; and its readings."""
    readings: list[int] = []

    def clock() -> float:
        if len(readings) == after:
            raise KeyboardInterrupt
        readings.append(len(readings))
        return float(len(readings))

    return clock, readings


def test_the_last_epochs_weights_are_kept_whatever_the_fold_said_of_them(made: Any, tmp_path: Path) -> None:
    best = fit(Trial(made.job.recipe, made.cache, made.job.split, tmp_path, "cpu", 1), lambda done: None)
    [last] = snapshots(tmp_path)
    expected, found = load_weights(last), load_weights(made.folder / "fold-1.safetensors")
    assert all(torch.equal(expected[name], tensor) for name, tensor in found.items())
    assert (made.record.epoch, made.record.miou) == (3, best["val/miou"])
    assert made.record.train_ids == made.folds.folds[0]
    assert sorted(path.name for path in made.folder.iterdir()) == ["fold-1.json", "fold-1.safetensors"]


def test_a_fold_goes_on_where_it_was_cut_off_and_ends_the_same(made: Any, tmp_path: Path) -> None:
    clock, _ = stopping(after=3)
    with pytest.raises(KeyboardInterrupt):
        fit_fold(made.job, made.cache, tmp_path, device="cpu", clock=clock)
    assert read_done(made.job, tmp_path) is None
    assert [path.name for path in (tmp_path / "fold-1").glob("epoch-*")] == ["epoch-0001"]
    clock, readings = stopping(after=99)
    assert fit_fold(made.job, made.cache, tmp_path, device="cpu", clock=clock) == made.record
    assert len(readings) == 4  # two epochs
    whole = (made.folder / "fold-1.safetensors").read_bytes()
    assert (tmp_path / "fold-1.safetensors").read_bytes() == whole


def test_a_fold_that_was_cut_off_between_its_last_epoch_and_the_renaming_trains_no_more(
    made: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("trainables.fit_fold.write_text", lambda *_: stopping(after=0)[0]())
        with pytest.raises(KeyboardInterrupt):
            fit_fold(made.job, made.cache, tmp_path, device="cpu")
    clock, readings = stopping(after=99)
    assert fit_fold(made.job, made.cache, tmp_path, device="cpu", clock=clock) == made.record
    assert readings == []


def test_a_fold_that_is_done_is_not_trained_again_and_another_jobs_is(made: Any) -> None:
    before = (made.folder / "fold-1.safetensors").stat().st_mtime_ns
    assert fit_fold(made.job, made.cache, made.folder, device="cpu", clock=stopping(after=0)[0]) == made.record
    assert (made.folder / "fold-1.safetensors").stat().st_mtime_ns == before
    longer = made.job.recipe.model_copy(update={"train": made.job.recipe.train.model_copy(update={"num_epochs": 4})})
    other = FoldJob("folds-00000", longer, 1, made.job.split, made.job.run_split)
    assert read_done(other, made.folder) is None
