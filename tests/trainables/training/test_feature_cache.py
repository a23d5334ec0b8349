"""Kept features of a frozen backbone: the same training, without reading images and backbone again."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from trainables.data.augment.train_set import ExtraImages, TrainSet
from trainables.data.cache import Cache
from trainables.data.card import read_card
from trainables.data.index import Split
from trainables.data.reader import read
from trainables.data.splits.make_split import make_split
from trainables.data.synthetic.dataset import write_synthetic
from trainables.models.segmentor import build_segmentor
from trainables.recipe.recipe import Augmentation, Backbone, EomtHead, Recipe, SegFormerHead, Train
from trainables.training import attempt
from trainables.training.feature_cache import is_kept
from trainables.training.fit import EpochReport, Trial, fit
from trainables.training.memory_estimate import check_kept

Data = tuple[Cache, Split]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Data:
    card = write_synthetic(tmp_path_factory.mktemp("synthetic") / "set", num_images=18, image_px=64, seed=0)
    index = read(read_card(card))
    return Cache.open(index, tmp_path_factory.mktemp("cache")), make_split(index, seed=0)


def trial_of(data: Data, out_dir: Path, **changes: Any) -> Trial:
    recipe = Recipe(
        backbone=Backbone(name="test_convnext", pretrained=False, frozen=True),
        head=SegFormerHead(channels=16),
        augmentation=Augmentation(crop_px=32, num_views=2),
        train=Train(num_epochs=5, batch_size=4, accumulate=2, num_workers=0, amp="off"),
    )
    return Trial(recipe.model_copy(update=changes), *data, out_dir, "cpu")


def losses(trial: Trial, **kwargs: Any) -> list[float]:
    reports: list[EpochReport] = []
    fit(trial, reports.append, **kwargs)
    return [done.metrics[key] for done in reports for key in ("train/loss", "val/loss")]


@pytest.mark.parametrize("backbone", ["test_convnext", "test_vit"])
def test_losses_are_those_without_it(
    data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backbone: str
) -> None:
    trial = trial_of(data, tmp_path, backbone=Backbone(name=backbone, pretrained=False, frozen=True))
    kept = losses(trial)
    monkeypatch.setattr(attempt, "is_kept", lambda trial: False)
    assert kept == pytest.approx(losses(trial), rel=1e-5)
    monkeypatch.undo()
    assert losses(trial) == kept


def test_an_image_is_read_once_for_each_view(data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, int]] = []
    plain = TrainSet.__getitem__

    def read_one(self: TrainSet, position: int) -> Any:
        seen.append((self.view, position))
        return plain(self, position)

    monkeypatch.setattr(TrainSet, "__getitem__", read_one)
    losses(trial_of(data, tmp_path))
    assert len(seen) == len(set(seen)) <= 2 * len(data[1].train_ids)


def test_a_resumed_trial_goes_on_as_it_was(data: Data, tmp_path: Path) -> None:
    trial, states = trial_of(data, tmp_path / "whole"), []
    whole: list[EpochReport] = []

    def keep(done: EpochReport) -> None:
        whole.append(done)
        states.append(done.checkpoint_dir)

    fit(trial, keep)
    resumed = losses(replace(trial, out_dir=tmp_path / "resumed"), resume_from=states[1])
    expected = [done.metrics[key] for done in whole[2:] for key in ("train/loss", "val/loss")]
    assert resumed == pytest.approx(expected, rel=1e-5)


def test_more_than_the_memory_is_refused(data: Data, tmp_path: Path) -> None:
    train = Train(num_epochs=2, batch_size=4, num_workers=0, amp="off", cache_gb=1e-4)
    with pytest.raises(ValueError, match=r"train.cache_gb must hold the features of \d+ images in 2 views"):
        losses(trial_of(data, tmp_path, train=train))


def test_the_estimate_is_what_is_kept(data: Data, tmp_path: Path) -> None:
    trial = trial_of(data, tmp_path)
    features = build_segmentor(trial.recipe, 3).backbone.read(torch.zeros(1, 3, 32, 32))
    num_bytes = (sum(feature.nbytes for feature in features) + 32 * 32) * 2 * 10  # two views of ten images
    for factor in (1.01, 0.99):
        train = trial.recipe.train.model_copy(update={"cache_gb": factor * num_bytes / 2**30})
        recipe = trial.recipe.model_copy(update={"train": train})
        with contextlib.nullcontext() if factor > 1 else pytest.raises(ValueError, match=r"train.cache_gb must hold"):
            check_kept(recipe, 3, 10)


def test_what_learns_or_has_more_than_images_is_not_kept(data: Data, tmp_path: Path) -> None:
    trial = trial_of(data, tmp_path)
    assert is_kept(trial)
    assert not is_kept(replace(trial, extra=ExtraImages(2, 0.5)))
    assert not is_kept(trial_of(data, tmp_path, backbone=Backbone(name="test_convnext")))
    assert not is_kept(trial_of(data, tmp_path, head=EomtHead()))
    assert not is_kept(trial_of(data, tmp_path, augmentation=Augmentation()))


def test_the_first_epochs_draws_come_again(data: Data) -> None:
    cache, split = data
    dataset = TrainSet(cache, split.train_ids, Augmentation(crop_px=32, num_views=2), seed=0)
    images = []
    for epoch in range(4):
        dataset.set_epoch(epoch)
        images.append(dataset[0][0])
    assert torch.equal(images[0], images[2])
    assert torch.equal(images[1], images[3])
    assert not torch.equal(images[0], images[1])
