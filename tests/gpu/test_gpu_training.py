"""Training on a device: precision, ranks, memory, compiling, determinism."""

from __future__ import annotations

import itertools
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gpu_recipes import BACKBONES, RECENT, RECENT_HEADS, Train, pairs, recipe_of, with_crop
from torch.nn.functional import conv2d

from trainables.data.augment.train_set import TrainSet, stop_workers, to_batch, train_loader
from trainables.data.cache import Cache
from trainables.data.index import Split
from trainables.data.synthetic.dataset import write_synthetic
from trainables.device import float32_products
from trainables.models.heads import HEADS
from trainables.recipe.recipe import Loss
from trainables.training.attempt import train_set
from trainables.training.epoch import update
from trainables.training.feature_cache import FeatureCache
from trainables.training.fit import Trial
from trainables.training.memory_estimate import footprint
from trainables.training.state import prepare
from trainables.worker_process import is_out_of_memory, prepare_worker, release_memory

PAIRS = pairs(BACKBONES, HEADS) + pairs(RECENT, RECENT_HEADS)
# EoMT's masks change from update to update; its matching, as any set loss, looks at the device's costs once an update
MASKED_EOMT = {"name": "eomt", "set_weight": 0.0}
KEYS = ("train/loss", "val/loss", "val/miou")


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize("amp", ["bf16", "fp16"])
@pytest.mark.parametrize(("backbone", "head"), PAIRS)
def test_ten_steps_in_low_precision(steps: Callable[..., Any], backbone: str, head: str, amp: str) -> None:
    train_loss, scores = steps(recipe_of(backbone, head, amp=amp))
    assert math.isfinite(train_loss)
    assert math.isfinite(scores.loss)
    assert 0 <= scores.miou <= 1


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize(
    "part",
    [{"lora_rank": 4}, {"frozen_stages": 1}, {"frozen": True}, {"grad_checkpointing": True}],
    ids=lambda part: next(iter(part)),
)
@pytest.mark.parametrize("head", ["segformer", "eomt"])
def test_ten_steps_of_a_backbone_that_keeps_weights_or_no_activations(
    steps: Callable[..., Any], part: dict[str, Any], head: str
) -> None:
    train = {key: value for key, value in part.items() if key == "grad_checkpointing"}
    recipe = recipe_of("vit_tiny_patch16_224", head, amp="bf16", **train)
    kept = {key: value for key, value in part.items() if key not in train}
    recipe = recipe.model_copy(update={"backbone": recipe.backbone.model_copy(update=kept)})
    train_loss, scores = steps(recipe)
    assert math.isfinite(train_loss)
    assert 0 <= scores.miou <= 1


LOSSES = ("cross_entropy", "focal", "ce_dice", "ce_lovasz")


@pytest.mark.parametrize(
    ("backbone", "head", "loss"),
    [
        *((b, "segformer", "cross_entropy") for b in (*BACKBONES, *RECENT)),
        *(("convnext_atto", "segformer", name) for name in LOSSES[1:]),
        pytest.param("vit_tiny_patch16_224", MASKED_EOMT, "cross_entropy", id="eomt"),
    ],
)
def test_a_step_waits_for_nothing(data: tuple[Cache, Split], device: str, backbone: str, head: Any, loss: str) -> None:
    """CUDA's own watch raises where the host waits for the device; on a CPU the steps run unwatched."""
    recipe = recipe_of(backbone, head, amp="bf16")
    recipe = recipe.model_copy(update={"loss": Loss(name=loss)})
    trial = Trial(recipe, *data, Path(), device)
    state, criterion = prepare(trial, torch.bfloat16, resume_from=None)
    loader = train_loader(train_set(trial), 2, 0, 0, pinned=device == "cuda")
    model = state.model.train()
    for n, raw in enumerate(itertools.islice(loader, 3)):
        if device == "cuda" and n:  # the first step makes what is kept
            torch.cuda.set_sync_debug_mode("error")
        try:
            update(state, to_batch(raw, device, model.mean, model.std), criterion, recipe, torch.bfloat16)
        finally:
            if device == "cuda":
                torch.cuda.set_sync_debug_mode("default")
    assert state.num_updates == 3


def test_kept_features_reach_the_device_without_waiting(data: tuple[Cache, Split], device: str) -> None:
    recipe = recipe_of("vit_tiny_patch16_224", "linear", amp="bf16")
    frozen = recipe.backbone.model_copy(update={"frozen": True})
    views = recipe.augmentation.model_copy(update={"num_views": 1})
    recipe = recipe.model_copy(update={"backbone": frozen, "augmentation": views})
    state, _ = prepare(Trial(recipe, *data, Path(), device), torch.bfloat16, resume_from=None)
    loader = train_loader(TrainSet(data[0], data[1].train_ids, views, 0), 2, 0, 0, pinned=device == "cuda")
    batches = FeatureCache(state.model, loader, recipe, torch.bfloat16, 2)
    first = next(iter(batches)).label  # all features are made before the first batch
    if device == "cuda":
        torch.cuda.set_sync_debug_mode("error")
    try:
        again = [batch.label for batch in batches]
    finally:
        if device == "cuda":
            torch.cuda.set_sync_debug_mode("default")
    assert len(again) == len(loader)
    assert torch.equal(again[0], first)


@pytest.mark.parametrize("backbone", [*BACKBONES, *RECENT])
def test_bf16_learns_as_float32_does(train: Train, backbone: str) -> None:
    """Without dropout, whose masks on a GPU are others for other types."""
    head = {"name": "segformer", "dropout": 0.0}
    low, full = (train(recipe_of(backbone, head, num_epochs=4, amp=amp), amp) for amp in ("bf16", "off"))
    curves = np.array([[epoch["train/loss"] for epoch in run] for run in (low, full)])
    np.testing.assert_allclose(curves[0], curves[1], rtol=0.05)


@pytest.fixture
def pair(device: str) -> str:
    """For two ranks: NCCL on two GPUs, Gloo on a CPU."""
    if device == "cuda" and torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    return device


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compile"])
def test_two_ranks_train_as_one_does(train: Train, pair: str, compiled: bool) -> None:
    recipe = recipe_of("resnet18", num_epochs=2, batch_size=4, amp="off", accumulate=2, compile=compiled)
    alone, shared = train(recipe, "alone"), train(recipe, "shared", num_ranks=2)
    for one, two in zip(alone, shared, strict=True):
        assert two["train/loss"] == pytest.approx(one["train/loss"], rel=1e-2)


def test_what_a_rank_raises_is_heard_at_once(train: Train, pair: str, tmp_path: Path) -> None:
    """NCCL's group is not ended first: that would wait for ranks that still compute, up to two hours."""
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"must hold state\.pt"):
        train(recipe_of(batch_size=4), num_ranks=2, resume_from=tmp_path / "empty")


def test_a_share_of_a_gpu_ends_where_it_says(gpu: str) -> None:
    prepare_worker(1.0, 0.25)
    whole = torch.cuda.get_device_properties(0).total_memory
    try:
        with pytest.raises(torch.OutOfMemoryError) as raised:
            torch.empty(int(0.3 * whole), dtype=torch.uint8, device=gpu)
        assert is_out_of_memory(raised.value)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
        torch.cuda.empty_cache()


def test_the_peak_is_the_trials_own_not_the_processs(train: Train, gpu: str) -> None:
    large = train(recipe_of(batch_size=16), "large")[-1]["peak_gb"]
    release_memory()  # as after every trial of a worker
    assert train(recipe_of(batch_size=1), "small")[-1]["peak_gb"] < 0.7 * large


def test_float32_is_rounded_to_ten_bits_where_asked_for_alone(device: str) -> None:
    """Products and convolutions against float64; a CPU has no TensorFloat-32."""
    torch.manual_seed(0)
    a, image, filters = torch.randn(512, 512), torch.randn(2, 64, 32, 32), torch.randn(64, 64, 3, 3)
    found = {}
    for amp in ("off", "tf32"):
        with float32_products(amp):
            product, convolved = a.to(device) @ a.to(device), conv2d(image.to(device), filters.to(device))
        exact = a.double() @ a.double(), conv2d(image.double(), filters.double())
        pairs = zip((product, convolved), exact, strict=True)
        found[amp] = [float((one.cpu() - two).norm() / two.norm()) for one, two in pairs]
    assert max(found["off"]) < 5e-5
    assert max(found["tf32"]) < 2e-3
    if device == "cuda" and torch.cuda.get_device_capability()[0] >= 8:
        assert found["tf32"][0] > 5e-5  # for its convolutions cuDNN may, but need not, round


def test_a_batch_that_does_not_fit_is_halved_to_the_same_result(train: Train, gpu: str) -> None:
    """A real allocator that refuses: the process may take little more than the half batch needs."""
    recipe = with_crop(recipe_of("convnext_atto", batch_size=16, num_epochs=2, amp="off"), 256)
    halves = recipe.model_copy(update={"train": recipe.train.model_copy(update={"accumulate": 2})})
    release_memory()
    small = train(halves, "small")[-1]
    release_memory()
    whole = train(recipe, "whole")[-1]
    assert small["peak_gb"] < 0.8 * whole["peak_gb"]
    between = (small["peak_gb"] + whole["peak_gb"]) / 2 * 2**30 / torch.cuda.get_device_properties(0).total_memory
    release_memory()
    torch.cuda.set_per_process_memory_fraction(between)
    try:
        halved = train(recipe, "halved")[-1]
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert halved["accumulate"] == 2
    for key in KEYS:
        assert halved[key] == pytest.approx(small[key], rel=1e-3)


def test_the_command_trains_on_a_device_by_its_number(device: str, tmp_path: Path) -> None:
    """In a process that has not used the device yet."""
    recipe, card = tmp_path / "recipe.json", write_synthetic(tmp_path / "set", num_images=18, image_px=64, seed=0)
    recipe.write_text(with_crop(recipe_of(), 64).model_dump_json())
    named = "cuda:0" if device == "cuda" else device
    script = [sys.executable, "-m", "trainables.fit", "--recipe", recipe, "--data", card, "--out", tmp_path / "out"]
    done = subprocess.run([*script, "--device", named], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("epoch   1")


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


@pytest.mark.parametrize("backbone", [*BACKBONES, *RECENT])
def test_memory_is_within_15_percent_of_the_estimate(
    train: Train, data: tuple[Cache, Split], gpu: str, backbone: str
) -> None:
    recipe = with_crop(recipe_of(backbone, batch_size=8, amp="bf16"), 512)
    release_memory()  # what an earlier test left would count as the trial's
    estimate = footprint(recipe, data[0].index.num_classes, low_precision=True).bytes(8)
    peak = train(recipe)[-1]["peak_gb"] * 2**30
    assert peak == pytest.approx(estimate, rel=0.15)


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize(
    ("backbone", "head"),
    [("convnext_atto", "segformer"), ("vit_tiny_patch16_224", MASKED_EOMT | {"masked_until": 0.5})],
    ids=["dense", "eomt"],
)
def test_a_compiled_trial_is_the_same_but_for_rounding(train: Train, backbone: str, head: Any) -> None:
    eager, quick = (
        train(recipe_of(backbone, head, num_epochs=2, amp="off", compile=on), str(on))[-1] for on in (False, True)
    )
    for key in KEYS:
        assert quick[key] == pytest.approx(eager[key], abs=1e-2)


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
