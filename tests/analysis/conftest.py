"""A finished run in miniature: two checkpoints, three images and the ensemble.json that joins them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from factories import make_ensemble, make_member
from numpy.typing import NDArray

from analysis.ensembling.result import EnsembleResult

CLASSES = ["Background", "Paper", "Glass"]


@dataclass(frozen=True)
class TinyRun:
    weights: dict[str, tuple[Path, ...]]  # one file per network
    ensemble: EnsembleResult
    images: dict[str, NDArray[np.uint8]]


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> TinyRun:
    """Three members of two recipes: the second candidate has no weight in the shipped rule."""
    import torch

    from trainables.models.segmentor import build_segmentor
    from trainables.models.weights_file import save_weights
    from trainables.recipe.augmentation import Augmentation
    from trainables.recipe.recipe import Backbone, Recipe, SegFormerHead

    folder = tmp_path_factory.mktemp("run")
    members, weights = [], {}
    for n, (name, views) in enumerate(
        [
            ("test_convnext", ["s1.00-none", "s1.00-horizontal"]),
            ("test_resnet", ["s1.00-none"]),
            ("test_resnet", ["s1.50-none"]),
        ]
    ):
        recipe = Recipe(
            backbone=Backbone(name=name, pretrained=False),
            head=SegFormerHead(channels=16),
            augmentation=Augmentation(crop_px=32, short_px=64 if n == 0 else None),
            seed=n,
        )
        torch.manual_seed(n)
        model = build_segmentor(recipe, len(CLASSES), pretrained=False).eval()
        trial = f"{n:04d}"
        weights[trial] = (folder / trial / "best.safetensors",)
        save_weights(folder / trial / "best.safetensors", model.state_dict())
        about = {
            "recipe": recipe.model_dump(mode="json"),
            "classes": CLASSES,
            "miou": 0.5,
            "epoch": 1,
            "data_fingerprint": "data",
            "split_fingerprint": "split",
        }
        (folder / trial / "best.json").write_text(json.dumps(about), encoding="utf-8")
        values = {
            "recipe_hash": recipe.hash,
            "family": recipe.family,
            "views": tuple(views),
            "val_miou": 0.5 - 0.01 * n,
        }
        members.append(make_member(trial, **values))
    rng = np.random.default_rng(0)
    sizes = {"a.png": (70, 90), "b/c.png": (70, 90), "b/d.png": (41, 64)}
    images = {name: rng.integers(0, 256, (*size, 3), dtype=np.uint8) for name, size in sizes.items()}
    return TinyRun(weights, make_ensemble(CLASSES, members), images)
