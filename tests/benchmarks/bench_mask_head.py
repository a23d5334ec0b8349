"""The mask heads beside dense heads on the same backbones, from scratch, and kept features of frozen ones, on one core.

    python tests/benchmarks/bench_mask_head.py                       # images a second against UPerNet
    python tests/benchmarks/bench_mask_head.py DATA_CARD [EPOCHS]    # val mIoU of short trainings too, and seconds per
                                                                     # epoch with kept features and without
    python tests/benchmarks/bench_mask_head.py DATA_CARD EPOCHS vit frozen    # of trainings with all of these in their
                                                                              # names alone

Speeds are medians of pairs at 128 x 128 px, fp32: a training step (forward, loss, backward) and a prediction of the
mask head (over the ViT, EoMT's too) and of UPerNet, one after the other: what else the machine does falls on both.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from trainables.data.cache import Cache
from trainables.data.card import read_card
from trainables.data.reader import read
from trainables.data.splits.make_split import decode_facts, make_split
from trainables.models.segmentor import build_segmentor
from trainables.recipe.recipe import Loss, Recipe
from trainables.training import attempt
from trainables.training.fit import Trial, fit
from trainables.training.losses import build_loss
from trainables.training.training_step import TrainingStep

BACKBONES = ("convnext_atto", "vit_tiny_patch16_224")
SMALL_MASKS: dict[str, Any] = {"name": "mask_classification", "channels": 64, "num_queries": 20, "num_layers": 3}
SMALL_EOMT: dict[str, Any] = {"name": "eomt", "channels": 64, "num_queries": 20, "num_blocks": 4}
SMALL_UPERNET: dict[str, Any] = {"name": "upernet", "channels": 48, "aux_channels": 32}
PAIRS = {
    "small": (SMALL_MASKS, SMALL_UPERNET),
    "defaults": ({"name": "mask_classification"}, {"name": "upernet"}),
    "small EoMT": (SMALL_EOMT, SMALL_UPERNET),
}
TRAINED = {
    "mask_classification": SMALL_MASKS,
    "mask_classification, set_weight 0": {**SMALL_MASKS, "set_weight": 0.0},
    "upernet": SMALL_UPERNET,
    "segformer": {"name": "segformer", "channels": 64},
    "eomt": SMALL_EOMT,
    "eomt, masked_until 0": {**SMALL_EOMT, "masked_until": 0.0},
    "linear, frozen backbone": {"name": "linear"},
}
NUM_CLASSES, BATCH, SIDE_PX = 11, 2, 128


def run(card: str | None = None, epochs: str = "5", *parts: str) -> dict[str, Any]:
    torch.set_num_threads(1)
    names = [(b, h) for b in BACKBONES for h in TRAINED if _fits(b, h) and all(part in f"{b} {h}" for part in parts)]
    if card is not None and parts:
        return {"trained": [_train(Path(card), *name, int(epochs)) for name in names]}
    rows = [_speed(backbone, sizes) for backbone in BACKBONES for sizes in PAIRS if _fits(backbone, sizes)]
    if card is None:
        return {"speed": rows}
    kept = [_kept(Path(card), backbone) for backbone in BACKBONES]
    return {"speed": rows, "kept": kept, "trained": [_train(Path(card), *name, int(epochs)) for name in names]}


def _fits(backbone: str, name: str) -> bool:
    return "eomt" not in name.lower() or backbone.startswith("vit")


def _recipe(backbone: str, head: dict[str, Any], **more: Any) -> Recipe:
    frozen = more.pop("frozen", False)
    body = {"name": backbone, "pretrained": False, "frozen": frozen}
    return Recipe.model_validate({"backbone": body, "head": head, **more})


def _speed(backbone: str, sizes: str, repeats: int = 9) -> dict[str, Any]:
    image, label = torch.randn(BATCH, 3, SIDE_PX, SIDE_PX), torch.randint(0, NUM_CLASSES, (BATCH, SIDE_PX, SIDE_PX))
    steps = []
    for head in PAIRS[sizes]:
        torch.manual_seed(0)
        steps.append(TrainingStep(build_segmentor(_recipe(backbone, head), NUM_CLASSES), build_loss(Loss(), 2)))
    trained = _pairs([lambda step=step: step.train()(image, label, None).backward() for step in steps], repeats)
    with torch.no_grad():
        predicted = _pairs([lambda step=step: step.model.eval()(image) for step in steps], repeats)
    row: dict[str, Any] = {"backbone": backbone, "sizes": sizes}
    for name, seconds in (("training", trained), ("prediction", predicted)):  # (repeats, 2)
        row[f"{name}_images_per_s"] = round(BATCH / float(np.median(seconds[:, 0])), 2)
        row[f"{name}_upernet_images_per_s"] = round(BATCH / float(np.median(seconds[:, 1])), 2)
        row[f"{name}_ratio"] = round(float(np.median(seconds[:, 1] / seconds[:, 0])), 3)
    print(row, flush=True)
    return row


def _pairs(works: list[Callable[[], Any]], repeats: int) -> np.ndarray:
    """Seconds (repeats, 2); the first pair warms up and is left out."""
    return np.array([[_seconds(work) for work in works] for _ in range(repeats + 1)])[1:]


def _seconds(work: Callable[[], Any]) -> float:
    start_s = time.perf_counter()
    work()
    return time.perf_counter() - start_s


def _train(card: Path, backbone: str, head: str, epochs: int) -> dict[str, Any]:
    recipe = _recipe(
        backbone,
        TRAINED[head],
        frozen="frozen" in head,
        augmentation={"short_px": 120, "crop_px": 96, "scale_min": 0.75, "scale_max": 1.5},  # 120: what wbc has
        optimizer={"lr": 1e-3, "warmup_epochs": 1.0},
        train={"num_epochs": epochs, "batch_size": 8, "num_workers": 0, "ema_decay": 0.95, "amp": "off"},
    )
    mious = [round(metrics["val/miou"], 4) for metrics in _epochs(card, recipe)]
    row = {"backbone": backbone, "head": head, "best": max(mious), "val_miou": mious}
    print(row, flush=True)
    return row


def _kept(card: Path, backbone: str) -> dict[str, Any]:
    """Training's seconds per epoch, of a linear head over a frozen backbone with two views of each image, without kept
    features and with them; the two epochs that make these apart from the two that read them."""
    recipe = _recipe(
        backbone,
        {"name": "linear"},
        frozen=True,
        augmentation={"crop_px": 96, "num_views": 2},
        optimizer={"lr": 1e-3, "warmup_epochs": 1.0},
        train={"num_epochs": 4, "batch_size": 8, "num_workers": 0, "amp": "off"},
    )
    row: dict[str, Any] = {"backbone": backbone}
    curves = {}
    whether = attempt.is_kept
    for name, kept in (("without", lambda trial: False), ("with", whether)):
        attempt.is_kept = kept
        epochs = _epochs(card, recipe)
        row[f"seconds_{name}"] = [round(metrics["train_images"] / metrics["images_per_s"], 2) for metrics in epochs]
        curves[name] = [metrics["train/loss"] for metrics in epochs]
    row["largest_difference_of_losses"] = float(np.abs(np.subtract(*curves.values())).max())
    print(row, flush=True)
    return row


def _epochs(card: Path, recipe: Recipe) -> list[dict[str, Any]]:
    """The metrics of each epoch, with how many images it had."""
    index = read(read_card(card))
    found: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        cache = Cache.open(index, Path(folder) / "cache")
        split = make_split(index, seed=0, known=decode_facts(index, cache))
        images = len(split.train_ids) // recipe.train.batch_size * recipe.train.batch_size
        trial = Trial(recipe, cache, split, Path(folder) / "trial", "cpu")
        fit(trial, lambda done: found.append({**done.metrics, "train_images": images}))
    return found


if __name__ == "__main__":
    run(*sys.argv[1:])
