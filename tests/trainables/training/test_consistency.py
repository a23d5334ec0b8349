"""Weak-to-strong consistency: views that keep their pixels' places, a loss of sure pixels, a trial that learns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from trainables.data.augment.consistency_set import ConsistencySet
from trainables.data.augment.train_set import Batch, ExtraImages
from trainables.data.cache import Cache
from trainables.data.card import read_card
from trainables.data.index import IGNORE_INDEX, Split
from trainables.data.label_overlay import LabelOverlay
from trainables.data.reader import read
from trainables.data.splits.make_split import make_split
from trainables.data.synthetic.dataset import write_synthetic
from trainables.models.weights_file import load_weights
from trainables.recipe.augmentation import Augmentation
from trainables.recipe.recipe import Backbone, Head, MaskHead, Optimizer, Recipe, SegFormerHead, Train
from trainables.training.consistency import cutmix_boxes, mix
from trainables.training.epoch import update
from trainables.training.fit import fit
from trainables.training.self_training import Consistency
from trainables.training.state import prepare
from trainables.training.trial import Trial

EXTRA = ExtraImages(6, 0.5)
SEGFORMER, MASKS = SegFormerHead(channels=16), MaskHead(channels=16, num_queries=11, num_layers=1)
AUG = Augmentation(crop_px=32, scale_min=0.4, scale_max=1.0, colour_p=0.9)


@pytest.fixture(autouse=True)
def _one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> tuple[Cache, Split]:
    """The last six training images have no labels."""
    root = tmp_path_factory.mktemp("synthetic")
    index = read(read_card(write_synthetic(root / "set", num_images=24, image_px=64, seed=0)))
    cache, split = Cache.open(index, root / "cache"), make_split(index, seed=0)
    return LabelOverlay(cache, dict.fromkeys(split.train_ids[-6:])), split


def trial_of(
    data: tuple[Cache, Split], out: Path, confidence: float = 0.0, head: Head = SEGFORMER, **train: Any
) -> Trial:
    recipe = Recipe(
        backbone=Backbone(name="test_convnext", pretrained=False),
        head=head,
        augmentation=AUG,
        optimizer=Optimizer(lr=1e-2, warmup_epochs=0),
        train=Train(**{"num_epochs": 3, "batch_size": 4, "num_workers": 0, "ema_decay": None} | train),
        seed=3,
    )
    return Trial(recipe, *data, out, "cpu", extra=EXTRA, consistency=Consistency(confidence))


def test_strong_views_have_the_weak_ones_pixels_in_other_colours(data: tuple[Cache, Split]) -> None:
    cache, split = data
    dataset = ConsistencySet(cache, split.train_ids, AUG, 0, EXTRA)
    first = len(split.train_ids) - EXTRA.count
    correlations, padded = [], 0
    for position in range(first, len(dataset)):
        weak, label, _, strong, valid = dataset[position]  # type: ignore[misc]
        assert (label == IGNORE_INDEX).all()
        assert not torch.equal(strong[0], strong[1])
        padded += int((~valid).sum())
        for view in strong:
            grey = torch.stack([view.float().mean(0).ravel(), weak.float().mean(0).ravel()])
            correlations.append(float(torch.corrcoef(grey)[0, 1]))
    assert padded  # crops of images that are smaller
    assert sum(correlations) / len(correlations) > 0.8
    _, label, _, strong, valid = dataset[0]  # type: ignore[misc]
    assert (label != IGNORE_INDEX).any()
    assert not strong.any()
    assert not valid.any()


def test_boxes_are_of_the_papers_sizes_and_take_the_next_image() -> None:
    torch.manual_seed(0)
    boxes = cutmix_boxes(200, (40, 60))
    shares = boxes.float().mean((1, 2))
    assert 0.4 < float((shares > 0).float().mean()) < 0.6
    assert float(shares.max()) <= 0.42
    images = torch.arange(4.0)[:, None, None, None].expand(4, 3, 2, 2)
    box = torch.zeros(4, 2, 2, dtype=torch.bool)
    box[:, 0, 0] = True
    mixed = mix(images, box)
    assert mixed[:, 0, 0, 0].tolist() == [1, 2, 3, 0]
    assert mixed[:, 0, 1, 1].tolist() == [0, 1, 2, 3]


def batch_of(extra: bool) -> Batch:
    generator = torch.Generator().manual_seed(0)
    valid = torch.zeros(4, 32, 32, dtype=torch.bool)
    valid[2:] = extra
    label = torch.randint(0, 11, (4, 32, 32), generator=generator)
    label[2:] = IGNORE_INDEX
    image = torch.randn(4, 3, 32, 32, generator=generator)
    strong = torch.randn(4, 2, 3, 32, 32, generator=generator)
    return Batch(image, label, torch.arange(4), strong=strong, valid=valid)


@pytest.mark.parametrize("head", [SEGFORMER, MASKS], ids=lambda head: head.name)
@pytest.mark.parametrize(("confidence", "learns"), [(0.0, True), (1.0, False)])
def test_only_sure_pixels_of_unlabelled_images_add_to_the_loss(
    data: tuple[Cache, Split], tmp_path: Path, confidence: float, learns: bool, head: Head
) -> None:
    losses = []
    for extra in (False, True):
        trial = trial_of(data, tmp_path, confidence, head)
        state, loss = prepare(trial, None, resume_from=None)
        losses.append(float(update(state, batch_of(extra), loss, trial.recipe, None)))
    assert (losses[1] > losses[0] + 0.1) == learns
    assert learns or losses[1] == pytest.approx(losses[0])


def test_a_trial_learns_its_labels_beside_its_own_predictions(data: tuple[Cache, Split], tmp_path: Path) -> None:
    reports: list[Any] = []
    fit(trial_of(data, tmp_path, 0.9, num_epochs=8), reports.append)
    assert min(one.metrics["val/loss"] for one in reports[1:]) < reports[0].metrics["val/loss"]


def test_a_resumed_trial_is_an_uninterrupted_one(data: tuple[Cache, Split], tmp_path: Path) -> None:
    reports: list[Any] = []
    fit(trial_of(data, tmp_path / "whole", 0.5), reports.append)
    resumed: list[Any] = []
    fit(trial_of(data, tmp_path / "again", 0.5), resumed.append, resume_from=reports[0].checkpoint_dir)
    one, two = (load_weights(each[-1].checkpoint_dir / "best.safetensors") for each in (reports, resumed))
    assert all(torch.equal(one[name], two[name]) for name in one)
    with pytest.raises(ValueError, match="consistency must be"):
        fit(trial_of(data, tmp_path / "other", 0.6), resumed.append, resume_from=reports[0].checkpoint_dir)
