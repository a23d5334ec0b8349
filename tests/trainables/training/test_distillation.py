"""The student's loss against PyTorch's own KL, in parts and whole, and a student that learns, resumed or not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from factories import make_header, make_store
from torch.nn import functional as F

from trainables.data.augment.train_set import SOFT_STRIDE_PX, Batch, TrainSet
from trainables.data.cache import Cache
from trainables.data.card import read_card
from trainables.data.index import Split
from trainables.data.reader import read
from trainables.data.splits.make_split import make_split
from trainables.data.synthetic.dataset import write_synthetic
from trainables.models.weights_file import load_weights
from trainables.recipe.augmentation import Augmentation
from trainables.recipe.recipe import Backbone, Optimizer, Recipe, SegFormerHead, Train
from trainables.training.distillation import SoftLabels, known_pixels, soft_loss
from trainables.training.epoch import update
from trainables.training.fit import fit
from trainables.training.state import prepare
from trainables.training.trial import Trial

Data = tuple[Cache, Split]


@pytest.fixture(autouse=True)
def _one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Data:
    root = tmp_path_factory.mktemp("synthetic")
    index = read(read_card(write_synthetic(root / "set", num_images=18, image_px=64, seed=0)))
    return Cache.open(index, root / "cache"), make_split(index, seed=0)


@pytest.fixture(scope="module")
def soft(data: Data, tmp_path_factory: pytest.TempPathFactory) -> SoftLabels:
    """A teacher that knows the labels."""
    cache, split = data
    folder = tmp_path_factory.mktemp("teacher")
    classes = np.arange(cache.index.num_classes)[:, None, None]
    logits = {name: 6.0 * (cache.label(name)[::4, ::4] == classes) for name in split.train_ids}
    make_store(folder, make_header("teacher", classes=cache.index.classes, split="train"), logits, cache.size)
    return SoftLabels(folder, "teacher", alpha=0.25, temperature=2.0)


def recipe_of(**train: Any) -> Recipe:
    return Recipe(
        backbone=Backbone(name="test_convnext", pretrained=False, drop_path=0.2),
        head=SegFormerHead(channels=16),
        augmentation=Augmentation(crop_px=32),
        optimizer=Optimizer(lr=1e-2, warmup_epochs=0),
        train=Train(**{"num_epochs": 3, "batch_size": 4, "num_workers": 0} | train),
        seed=3,
    )


def logits_of(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Of a student (B,K,H,W) and a teacher (B,K,H/4,W/4), which is silent in one column."""
    generator = torch.Generator().manual_seed(seed)
    student = torch.randn(4, 5, 16, 24, generator=generator).requires_grad_()
    teacher = 3 * torch.randn(4, 5, 4, 6, generator=generator)
    teacher[:, :, :, 2] = float("nan")
    return student, teacher.half()


def test_the_loss_is_torchs_kl_of_softened_probabilities_over_known_pixels() -> None:
    student, teacher = logits_of()
    seen = student[:, :, 2::4, 2::4].permute(0, 2, 3, 1)
    keep = ~teacher[:, 0].isnan()
    target = (teacher.float().permute(0, 2, 3, 1)[keep] / 3).softmax(1)
    expected = 9 * F.kl_div((seen[keep] / 3).log_softmax(1), target, reduction="batchmean")
    found = soft_loss(student, teacher, 3.0)
    torch.testing.assert_close(found, expected)
    found.backward()
    assert student.grad is not None
    assert student.grad.isfinite().all()
    assert not student.grad[:, :, :, 2 + 2 * SOFT_STRIDE_PX].any()  # of the silent column


def test_parts_of_a_batch_sum_to_its_loss() -> None:
    student, teacher = logits_of()
    teacher[0] = float("nan")
    whole = known_pixels(teacher)
    parts = zip(student.chunk(2), teacher.chunk(2), strict=True)
    torch.testing.assert_close(
        torch.stack([soft_loss(s, t, 2.0, whole) for s, t in parts]).sum(), soft_loss(student, teacher, 2.0)
    )


def test_a_batch_of_which_the_teacher_says_nothing_has_no_loss() -> None:
    student, teacher = logits_of()
    assert soft_loss(student, torch.full_like(teacher, float("nan")), 2.0).item() == 0.0


def test_a_crops_soft_labels_are_those_of_its_label(data: Data, soft: SoftLabels) -> None:
    cache, split = data
    dataset = TrainSet(cache, split.train_ids, Augmentation(crop_px=32, scale_min=1.0, scale_max=2.0), 0, soft)
    agree = []
    for position in range(len(dataset)):
        _, label, _, logits = dataset[position]  # type: ignore[misc]
        seen = label[2::4, 2::4]
        known = (seen != 255) & ~logits[0].isnan()
        agree.append((logits.argmax(0)[known] == seen[known]).float().mean())
    assert torch.stack(agree).mean() > 0.9  # all but the rims of objects, which a grid of every fourth pixel blurs


def test_micro_batches_give_the_gradient_of_the_batch(data: Data, soft: SoftLabels, tmp_path: Path) -> None:
    states = [
        prepare(Trial(recipe_of(accumulate=parts), *data, tmp_path, "cpu", soft=soft), None, resume_from=None)
        for parts in (1, 2)
    ]
    generator = torch.Generator().manual_seed(0)
    batch = Batch(
        torch.randn(4, 3, 32, 32, generator=generator),
        torch.randint(0, 11, (4, 32, 32), generator=generator),
        torch.arange(4),
        torch.randn(4, 11, 8, 8, generator=generator).half(),
    )
    losses = []
    for parts, (state, loss) in zip((1, 2), states, strict=True):
        for module in state.model.modules():  # batch norm and drop path see a micro-batch alone
            module.eval()
        losses.append(float(update(state, batch, loss, recipe_of(accumulate=parts), None)))
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_a_student_without_labels_learns_from_its_teacher(data: Data, soft: SoftLabels, tmp_path: Path) -> None:
    alone = SoftLabels(soft.folder, "teacher", alpha=0.0, temperature=1.0)
    reports: list[Any] = []
    fit(Trial(recipe_of(num_epochs=8), *data, tmp_path, "cpu", soft=alone), reports.append)
    losses = [one.metrics["val/loss"] for one in reports]  # of the labels, which it was never shown
    assert losses[-1] < losses[0]


def test_a_resumed_student_is_an_uninterrupted_one(data: Data, soft: SoftLabels, tmp_path: Path) -> None:
    reports: list[Any] = []
    trial = Trial(recipe_of(), *data, tmp_path / "whole", "cpu", snapshots=1, soft=soft)
    fit(trial, reports.append)
    again = Trial(recipe_of(), *data, tmp_path / "again", "cpu", snapshots=1, soft=soft)
    resumed: list[Any] = []
    fit(again, resumed.append, resume_from=reports[0].checkpoint_dir)
    one, two = (load_weights(each[-1].checkpoint_dir / "best.safetensors") for each in (reports, resumed))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_a_student_resumes_under_its_own_teacher_alone(data: Data, soft: SoftLabels, tmp_path: Path) -> None:
    reports: list[Any] = []
    fit(Trial(recipe_of(num_epochs=1), *data, tmp_path / "a", "cpu", soft=soft), reports.append)
    other = SoftLabels(soft.folder, "another", soft.alpha, soft.temperature)
    with pytest.raises(ValueError, match="from its own checkpoint only: teacher must be"):
        fit(
            Trial(recipe_of(num_epochs=1), *data, tmp_path / "b", "cpu", soft=other),
            reports.append,
            resume_from=reports[0].checkpoint_dir,
        )
