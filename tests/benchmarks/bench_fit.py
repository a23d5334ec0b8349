"""Images a second of `fit` against a bare torch loop with the same model, batch, loss and optimiser.

    python tests/benchmarks/bench_fit.py [EPOCHS [DEVICE]]        # 6 on the CPU by default, one torch thread

The bare loop trains on one batch that already lies on the device: no loading, augmentation, EMA or checks. It runs
within fit's own report callback, so that each epoch of fit is paired with as many bare updates right after it. The
first epoch (it starts the workers) is left out; fit's speed is of training, validation apart.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from trainables.data.cache import Cache
from trainables.data.card import read_card
from trainables.data.index import Split
from trainables.data.reader import read
from trainables.data.synthetic.dataset import write_synthetic
from trainables.logits.predict_views import autocast_dtype
from trainables.models.resize import upsample
from trainables.models.segmentor import build_segmentor
from trainables.recipe.augmentation import Augmentation
from trainables.recipe.recipe import Backbone, Recipe, SegFormerHead, Train
from trainables.training.attempt import EpochReport
from trainables.training.fit import Trial, fit

CROP_PX, BATCH_SIZE, NUM_IMAGES = 128, 8, 48


class BareLoop:
    """Forward, cross-entropy, backward, clip, AdamW; nothing else."""

    def __init__(self, recipe: Recipe, num_classes: int, device: str) -> None:
        layout = torch.channels_last if device.startswith("cuda") else torch.contiguous_format
        self.model = build_segmentor(recipe, num_classes).to(device, memory_format=layout)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), fused=device.startswith("cuda") or None)
        self.image = torch.randn(BATCH_SIZE, 3, CROP_PX, CROP_PX, device=device)
        self.label = torch.randint(0, num_classes, (BATCH_SIZE, CROP_PX, CROP_PX), device=device)
        self.dtype = autocast_dtype(recipe.train.amp, device)
        self.device = device

    def images_per_s(self, num_updates: int) -> float:
        start_s = time.perf_counter()
        for _ in range(num_updates):
            with torch.autocast(self.image.device.type, dtype=self.dtype, enabled=self.dtype is not None):
                logits = upsample(self.model(self.image).float(), self.model.stride, (CROP_PX, CROP_PX))
            F.cross_entropy(logits, self.label, ignore_index=255).backward()
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
        if self.device.startswith("cuda"):
            torch.cuda.synchronize()
        return num_updates * BATCH_SIZE / (time.perf_counter() - start_s)


def _pairs(recipe: Recipe, cache: Cache, folder: Path, device: str) -> list[tuple[float, float]]:
    """(fit, bare) images a second of each epoch but the first."""
    ids = cache.index.ids("train")
    split = Split(ids[:NUM_IMAGES], ids[:2], (), "bench")
    bare = BareLoop(recipe, cache.index.num_classes, device)
    bare.images_per_s(2)
    pairs: list[tuple[float, float]] = []

    def measure(done: EpochReport) -> None:
        pairs.append((done.metrics["images_per_s"], bare.images_per_s(NUM_IMAGES // BATCH_SIZE)))

    fit(Trial(recipe, cache, split, folder, device), measure)
    return pairs[1:]


def run(num_epochs: int = 6, device: str = "cpu") -> dict[str, Any]:
    """Medians of paired ratios fit / bare, for the default recipe and without EMA."""
    torch.set_num_threads(1)
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        card = read_card(write_synthetic(folder / "set", num_images=NUM_IMAGES * 2, image_px=192, seed=0))
        cache = Cache.open(read(card), folder / "cache")
        for label, ema_decay in (("default", 0.999), ("without EMA", None)):
            recipe = Recipe(
                backbone=Backbone(name="convnext_atto", pretrained=False),
                head=SegFormerHead(channels=64),
                augmentation=Augmentation(crop_px=CROP_PX),
                train=Train(num_epochs=num_epochs + 1, batch_size=BATCH_SIZE, num_workers=1, ema_decay=ema_decay),
            )
            pairs = np.array(_pairs(recipe, cache, folder / label.replace(" ", "-"), device))
            ratios = pairs[:, 0] / pairs[:, 1]
            rows.append(
                {
                    "recipe": label,
                    "fit_images_per_s": float(np.median(pairs[:, 0])),
                    "bare_images_per_s": float(np.median(pairs[:, 1])),
                    "ratio": float(np.median(ratios)),
                    "ratio_low": float(np.quantile(ratios, 0.25)),
                    "ratio_high": float(np.quantile(ratios, 0.75)),
                }
            )
    print(
        f"{'recipe':12} {'fit':>8} {'bare':>8}   ratio (quartiles)    images/s on {device}, convnext_atto, {CROP_PX} px"
    )
    for r in rows:
        print(
            f"{r['recipe']:12} {r['fit_images_per_s']:8.1f} {r['bare_images_per_s']:8.1f}   "
            f"{r['ratio']:.3f} ({r['ratio_low']:.3f} to {r['ratio_high']:.3f})"
        )
    return {"rows": rows, "device": device, "num_epochs": num_epochs}


if __name__ == "__main__":
    run(*map(int, sys.argv[1:2]), *sys.argv[2:3])
