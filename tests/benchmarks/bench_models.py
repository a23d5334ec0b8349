"""Forward and backward images a second of whole networks, against timm's backbone alone or the device's peak.

    python tests/benchmarks/bench_models.py [cpu|cuda] [PARTS OF NAMES ...]     # torch and timm; no Ray, no network

On the CPU: each family's tiny member under its heads at 128 x 128, one thread, fp32; `head_share` is the head's part
of a step. On a GPU: the first users' networks at 512 x 512 in bf16, with the largest batch of 1 to 16 that fits: images
a second of a plain eager loop, with channels-last, and compiled too; peak memory; the share of the device's matrix
peak (operations of both passes as torch counts them, over the peak that one large bf16 product reaches here).
A head or backbone that this checkout lacks is named and left out.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import timm
import torch
from pydantic import ValidationError
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from trainables.models.segmentor import build_segmentor
from trainables.recipe.recipe import Loss, Recipe
from trainables.training.losses import build_loss
from trainables.training.training_step import TrainingStep

NUM_CLASSES = 19
TINY = [
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
LARGE = [(backbone, head, {}) for backbone in LARGE_BACKBONES for head in ("upernet", "knet")]


def run(device: str = "cpu", *wanted: str) -> dict[str, Any]:
    """Rows for every network whose name or head contains one of `wanted`, or for all."""
    cases = TINY if device == "cpu" else LARGE
    measure = _on_cpu if device == "cpu" else _on_gpu
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
    return {"device": device, "rows": rows}


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


def _on_gpu(recipe: Recipe, px: int = 512) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for batch in (16, 8, 4, 2, 1):
        try:
            row = {"batch": batch, **_variants(recipe, px, batch)}
            break
        except torch.OutOfMemoryError:
            pass  # the frames that fill the device go with the handler
        torch.cuda.empty_cache()
    if not row:
        raise ValueError("not one image fits the device")
    return row


def _variants(recipe: Recipe, px: int, batch: int) -> dict[str, Any]:
    image, label = _data(batch, px, "cuda")
    step = _step(recipe, "cuda")
    with FlopCounterMode(display=False) as counted:
        _pass(step, image, label)
    step.zero_grad(set_to_none=True)
    torch.cuda.reset_peak_memory_stats()
    row: dict[str, Any] = {
        "params_m": sum(p.numel() for p in step.parameters()) / 1e6,
        "eager": _images_per_s(step, image, label),
        "peak_gb": torch.cuda.max_memory_allocated() / 2**30,
    }
    step = step.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    image = image.contiguous(memory_format=torch.channels_last)
    row["channels_last"] = _images_per_s(step, image, label)
    row["compiled"] = _images_per_s(torch.compile(step, dynamic=False), image, label)  # type: ignore[arg-type]
    torch.compiler.reset()
    per_image = counted.get_total_flops() / batch  # forward and backward
    fastest = max(row["eager"], row["channels_last"], row["compiled"])
    row["share_of_peak"] = per_image * fastest / _peak_flops()
    return row


def _peak_flops(side: int = 8192, repeats: int = 20) -> float:
    a = torch.randn(side, side, device="cuda", dtype=torch.bfloat16)
    return 2.0 * side**3 / _cuda_seconds(lambda: a @ a, repeats)


def _images_per_s(step: nn.Module, image: Tensor, label: Tensor, repeats: int = 10) -> float:
    return len(image) / _cuda_seconds(lambda: _pass(step, image, label), repeats)


def _pass(step: nn.Module, image: Tensor, label: Tensor) -> None:
    with torch.autocast("cuda", dtype=torch.bfloat16):
        loss = step(image, label, None)
    loss.backward()
    step.zero_grad(set_to_none=True)


def _cuda_seconds(work: Callable[[], Any], repeats: int) -> float:
    for _ in range(3):
        work()
    torch.cuda.synchronize()
    return _seconds(lambda: ([work() for _ in range(repeats)], torch.cuda.synchronize())) / repeats


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
