"""Training on a device: precision, ranks, memory, compiling, determinism."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from gpu_recipes import BACKBONES, PLAIN, Train, recipe_of

from trainables.data.augment.train_set import TrainSet, stop_workers, train_loader
from trainables.data.cache import Cache
from trainables.data.index import Split
from trainables.models.compatibility import PLAIN_HEADS
from trainables.models.heads import HEADS
from trainables.training.memory_estimate import footprint

PAIRS = [(b, h) for b in BACKBONES for h in HEADS if h not in PLAIN_HEADS or b in PLAIN]
KEYS = ("train/loss", "val/loss", "val/miou")


@pytest.mark.parametrize("amp", ["bf16", "fp16"])
@pytest.mark.parametrize(("backbone", "head"), PAIRS)
def test_ten_steps_in_low_precision(train: Train, backbone: str, head: str, amp: str) -> None:
    metrics = train(recipe_of(backbone, head, amp=amp))[-1]
    assert all(math.isfinite(metrics[key]) for key in KEYS)
    assert 0 <= metrics["val/miou"] <= 1


@pytest.mark.parametrize("backbone", BACKBONES)
def test_bf16_learns_as_float32_does(train: Train, backbone: str) -> None:
    low, full = (train(recipe_of(backbone, num_epochs=4, amp=amp), amp) for amp in ("bf16", "off"))
    curves = np.array([[epoch["train/loss"] for epoch in run] for run in (low, full)])
    np.testing.assert_allclose(curves[0], curves[1], rtol=0.05)


def test_two_ranks_train_as_one_does(train: Train, gpu: str) -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    recipe = recipe_of("resnet18", num_epochs=3, batch_size=4, amp="off", accumulate=2)
    alone, shared = train(recipe, "alone"), train(recipe, "shared", num_ranks=2)
    for one, two in zip(alone, shared, strict=True):
        assert two["train/loss"] == pytest.approx(one["train/loss"], rel=1e-2)


def test_a_batch_that_does_not_fit_is_halved_to_the_same_result(train: Train, gpu: str) -> None:
    """A real allocator that refuses: the process may take little more than the half batch needs."""
    recipe = recipe_of("convnext_atto", batch_size=16, num_epochs=2, amp="off")
    halves = recipe.model_copy(update={"train": recipe.train.model_copy(update={"accumulate": 2})})
    small = train(halves, "small")[-1]
    whole = train(recipe, "whole")[-1]
    assert small["peak_gb"] < 0.8 * whole["peak_gb"]
    between = (small["peak_gb"] + whole["peak_gb"]) / 2 * 2**30 / torch.cuda.get_device_properties(0).total_memory
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(between)
    try:
        halved = train(recipe, "halved")[-1]
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert halved["accumulate"] == 2
    for key in KEYS:
        assert halved[key] == pytest.approx(small[key], rel=1e-3)


def test_batches_for_a_gpu_lie_in_pinned_memory(data: tuple[Cache, Split], gpu: str) -> None:
    cache, split = data
    recipe = recipe_of(num_workers=2)
    loader = train_loader(TrainSet(cache, split.train_ids, recipe.augmentation, 0), 2, 2, 0, pinned=True)
    try:
        tensors = [value for value in next(iter(loader)) if isinstance(value, torch.Tensor)]
        assert tensors
        assert all(tensor.is_pinned() for tensor in tensors)
    finally:
        stop_workers(loader)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_memory_is_within_15_percent_of_the_estimate(
    train: Train, data: tuple[Cache, Split], gpu: str, backbone: str
) -> None:
    """With crops large enough that the activations are most of it."""
    recipe = recipe_of(backbone, batch_size=8, amp="bf16")
    recipe = recipe.model_copy(
        update={"augmentation": recipe.augmentation.model_copy(update={"crop_px": 512, "short_px": 512})}
    )
    estimate = footprint(recipe, data[0].index.num_classes, low_precision=True).bytes(8)
    peak = train(recipe)[-1]["peak_gb"] * 2**30
    assert peak == pytest.approx(estimate, rel=0.15)


def test_a_compiled_trial_is_the_same_but_for_rounding(train: Train) -> None:
    eager, quick = (train(recipe_of(num_epochs=2, amp="off", compile=on), str(on))[-1] for on in (False, True))
    for key in KEYS:
        assert quick[key] == pytest.approx(eager[key], abs=5e-3)


def test_equal_seeds_give_equal_curves_but_for_the_order_of_sums(train: Train) -> None:
    first, second = (train(recipe_of(num_epochs=3, amp="off"), name) for name in ("first", "second"))
    for one, two in zip(first, second, strict=True):
        assert two["train/loss"] == pytest.approx(one["train/loss"], rel=1e-2)


def test_a_trial_goes_on_from_its_checkpoint(
    train: Train, data: tuple[Cache, Split], device: str, tmp_path: Path
) -> None:
    recipe = recipe_of(num_epochs=3, amp="bf16")
    whole = train(recipe, "whole")
    from_second = train(recipe, "again", resume_from=tmp_path / "whole" / "epoch-0002")
    assert from_second[-1]["train/loss"] == pytest.approx(whole[-1]["train/loss"], rel=2e-2)
