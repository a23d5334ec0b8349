"""Forward and backward images a second of whole networks, against timm's backbone alone or the device's peak.

    python tests/benchmarks/bench_models.py [cpu|cuda|rehearsal] [PARTS OF NAMES ...]   # no Ray, no network

On the CPU: each family's tiny member under its heads at 128 x 128, one thread, fp32; `head_share` is the head's part
of a step. On a GPU: the first users' networks, and DINOv3-L under the mask head, at 512 x 512 in bf16, with the largest
batch of 1 to 16 that fits: images a second of a plain eager loop, with channels-last, compiled, and both; peak memory;
the share of the device's matrix peak (operations of both passes as torch counts them, over the peak that one large
bf16 product reaches here); and how many cores it takes to load what the quickest eats: first come the samples a second
that one core loads. `rehearsal` runs the GPU's script on a CPU, at tiny sizes.
A head or backbone that this checkout lacks is named and left out.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import functools
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from pydantic import ValidationError
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from trainables.data.augment.train_set import TrainSet
from trainables.data.cache import Cache
from trainables.data.card import read_card
from trainables.data.reader import read
from trainables.data.synthetic.dataset import write_synthetic
from trainables.models.segmentor import build_segmentor
from trainables.recipe.augmentation import Augmentation
from trainables.recipe.recipe import Loss, Recipe
from trainables.training.losses import build_loss
from trainables.training.training_step import TrainingStep

NUM_CLASSES = 19
VARIANTS = ("eager", "channels_last", "compiled", "both")
Case = tuple[str, str, dict[str, Any]]
TINY: list[Case] = [
    ("convnext_atto", "upernet", {"channels": 48, "aux_channels": 32}),
    ("convnext_atto", "knet", {"channels": 64, "aux_channels": 32}),
    ("swin_tiny_patch4_window7_224", "knet", {"channels": 64, "aux_channels": 32}),
    ("beit_base_patch16_224", "upernet", {"channels": 48, "aux_channels": 32}),
    ("twins_svt_small", "upernet", {"channels": 48, "aux_channels": 32}),
    ("vit_tiny_patch16_224", "upernet", {"channels": 48, "aux_channels": 32}),
    ("vit_tiny_patch16_224", "segmenter", {}),
    ("vit_tiny_patch16_224", "setr_naive", {}),
    ("mit_b0", "segformer", {"channels": 64}),
]
LARGE_BACKBONES = (
    "convnext_base",
    "convnext_xlarge",
    "swin_large_patch4_window12_384",
    "beit_large_patch16_512",
    "twins_svt_large",
)
LARGE: list[Case] = [(backbone, head, {}) for backbone in LARGE_BACKBONES for head in ("upernet", "knet")]
LARGE.append(("vit_large_patch16_dinov3", "mask_classification", {}))
REHEARSED = [TINY[0], ("vit_tiny_patch16_dinov3_qkvb", "mask_classification", {"channels": 32, "num_queries": 20})]


@dataclass(frozen=True)
class Size:
    """Of the benchmark on a GPU, or of its rehearsal."""

    device: str = "cuda"
    px: int = 512
    batches: tuple[int, ...] = (16, 8, 4, 2, 1)
    repeats: int = 10
    product_side: int = 8192  # of the matrices whose product shows the device's peak
    back_end: str = "inductor"  # of torch.compile


REHEARSAL = Size("cpu", 64, (2,), 1, 256, "eager")


def run(device: str = "cpu", *wanted: str) -> dict[str, Any]:
    """Rows for every network whose name or head contains one of `wanted`, or for all."""
    cases = {"cpu": TINY, "cuda": LARGE, "rehearsal": REHEARSED}[device]
    size = REHEARSAL if device == "rehearsal" else Size()
    loaded = {} if device == "cpu" else _loaded_per_s(size.px)
    for name, rate in loaded.items():
        print(f"one core loads {rate:.4g} samples a second with the augmentation {name}")

    def measure(recipe: Recipe) -> dict[str, Any]:
        return _on_cpu(recipe) if device == "cpu" else _on_gpu(recipe, size, loaded)

    rows = []
    for backbone, head, changes in cases:
        if wanted and not any(part in f"{backbone}+{head}" for part in wanted):
            continue
        row: dict[str, Any] = {"backbone": backbone, "head": head}
        try:
            values = {"backbone": {"name": backbone, "pretrained": False}, "head": {"name": head, **changes}}
            row |= measure(Recipe.model_validate(values))
        except (ValidationError, ValueError) as error:
            row["left_out"] = str(error).splitlines()[0]
        rows.append(row)
        print("  ".join(f"{key} {value:.4g}" if isinstance(value, float) else f"{value}" for key, value in row.items()))
        sys.stdout.flush()
    return {"device": device, "loaded_per_s": loaded, "rows": rows}


def _on_cpu(recipe: Recipe, px: int = 128, batch: int = 2, repeats: int = 5) -> dict[str, Any]:
    torch.set_num_threads(1)
    image, label = _data(batch, px, "cpu")
    step = _step(recipe, "cpu")
    alone = _backbone_alone(recipe.backbone.name)
    ours: list[float] = []
    theirs: list[float] = []
    for _ in range(repeats + 1):  # paired, so that what else the machine does falls on both; the first warms up
        ours.append(_seconds(lambda: step(image, label, None).backward()))
        theirs.append(_seconds(lambda: _sum(alone(image)).backward()))
    share = 1 - np.array(theirs[1:]) / np.array(ours[1:])
    return {
        "params_m": sum(p.numel() for p in step.parameters()) / 1e6,
        "images_per_s": batch / float(np.median(ours[1:])),
        "backbone_images_per_s": batch / float(np.median(theirs[1:])),
        "head_share": float(np.median(share)),
    }


def _on_gpu(recipe: Recipe, size: Size, loaded: dict[str, float]) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for batch in size.batches:
        try:
            row = {"batch": batch, **_variants(recipe, size, batch)}
            break
        except torch.OutOfMemoryError:
            pass  # the frames that fill the device go with the handler
        torch.cuda.empty_cache()
    if not row:
        raise ValueError("not one image fits the device")
    fastest = max(row[name] for name in VARIANTS)
    return row | {f"cores_to_load_{name}": fastest / rate for name, rate in loaded.items()}


def _variants(recipe: Recipe, size: Size, batch: int) -> dict[str, Any]:
    image, label = _data(batch, size.px, size.device)
    step = _step(recipe, size.device)
    with FlopCounterMode(display=False) as counted:
        _pass(step, image, label)
    step.zero_grad(set_to_none=True)
    on_cuda = size.device == "cuda"
    if on_cuda:
        torch.cuda.reset_peak_memory_stats()
    eager = _images_per_s(step, image, label, size)
    row: dict[str, Any] = {
        "params_m": sum(p.numel() for p in step.parameters()) / 1e6,
        "peak_gb": torch.cuda.max_memory_allocated() / 2**30 if on_cuda else float("nan"),
        "eager": eager,
        "compiled": _compiled_images_per_s(step, image, label, size),
    }
    step = step.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    image = image.contiguous(memory_format=torch.channels_last)
    row["channels_last"] = _images_per_s(step, image, label, size)
    row["both"] = _compiled_images_per_s(step, image, label, size)
    per_image = counted.get_total_flops() / batch  # forward and backward
    row["share_of_peak"] = per_image * max(row[name] for name in VARIANTS) / _peak_flops(size)
    return row


def _compiled_images_per_s(step: nn.Module, image: Tensor, label: Tensor, size: Size) -> float:
    torch.compiler.reset()
    return _images_per_s(torch.compile(step, dynamic=False, backend=size.back_end), image, label, size)  # type: ignore[arg-type]


def _peak_flops(size: Size) -> float:
    side = size.product_side
    a = torch.randn(side, side, device=size.device, dtype=torch.bfloat16)
    return 2.0 * side**3 / _mean_seconds(lambda: a @ a, size.device, 2 * size.repeats)


def _images_per_s(step: nn.Module, image: Tensor, label: Tensor, size: Size) -> float:
    return len(image) / _mean_seconds(lambda: _pass(step, image, label), size.device, size.repeats)


def _pass(step: nn.Module, image: Tensor, label: Tensor) -> None:
    with torch.autocast(image.device.type, dtype=torch.bfloat16):
        loss = step(image, label, None)
    loss.backward()
    step.zero_grad(set_to_none=True)


def _mean_seconds(work: Callable[[], Any], device: str, repeats: int) -> float:
    def wait() -> None:
        if device == "cuda":
            torch.cuda.synchronize()

    for _ in range(3):
        work()
    wait()
    return _seconds(lambda: ([work() for _ in range(repeats)], wait())) / repeats


def _loaded_per_s(px: int, num_images: int = 18, repeats: int = 3) -> dict[str, float]:
    """Crops of `px` that one process makes a second of images of 1.5 times that, decoded already, by augmentation."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        card = write_synthetic(Path(folder) / "set", num_images=num_images, image_px=px * 3 // 2, seed=0)
        cache = Cache.open(read(read_card(card)), Path(folder) / "cache")
        ids = [image.image_id for image in cache.index.images]
        for preset in ("none", "convnext_knet"):
            cfg = Augmentation.model_validate({"preset": preset, "crop_px": px, "short_px": px})
            made = TrainSet(cache, ids, cfg, seed=0)
            samples = [i % len(ids) for i in range(repeats * len(ids))]
            made[0]  # the first compiles and decodes
            found[preset] = len(samples) / _seconds(functools.partial(_read_all, made, samples))
    return found


def _read_all(made: TrainSet, samples: Sequence[int]) -> None:
    for position in samples:
        made[position]


def _seconds(work: Callable[[], Any]) -> float:
    start_s = time.perf_counter()
    work()
    return time.perf_counter() - start_s


def _data(batch: int, px: int, device: str) -> tuple[Tensor, Tensor]:
    return (
        torch.randn(batch, 3, px, px, device=device),
        torch.randint(0, NUM_CLASSES, (batch, px, px), device=device),
    )


def _step(recipe: Recipe, device: str) -> nn.Module:
    torch.manual_seed(0)
    model = build_segmentor(recipe, NUM_CLASSES, pretrained=False)
    return TrainingStep(model, build_loss(Loss(), NUM_CLASSES)).to(device).train()


def _backbone_alone(name: str) -> Callable[[Tensor], Any]:
    """timm's feature extractor as it comes, or smp's where the backbone is its Mix Transformer."""
    if name.startswith("mit_b"):
        import segmentation_models_pytorch as smp

        encoder: Any = smp.encoders.get_encoder(name, weights=None)
        return lambda image: list(encoder(image)[2:])
    sizes = ({}, {"img_size": 128}, {"dynamic_img_size": True}, {"strict_img_size": False})
    for args in sizes[1:] + sizes[:1]:
        try:
            model = timm.create_model(name, features_only=True, **args)
            model(torch.zeros(1, 3, 128, 128))
        except (TypeError, AssertionError, RuntimeError):
            continue  # each family has its own argument for the image size
        return model.train()
    raise ValueError(f"timm's {name} takes no images of 128 x 128 px")


def _sum(features: Any) -> Tensor:
    return torch.stack([feature.float().mean() for feature in features]).sum()


if __name__ == "__main__":
    run(*(sys.argv[1:] or ["cpu"]))
