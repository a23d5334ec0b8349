"""A finished run in miniature: two checkpoints, three images and the ensemble.json that joins them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

CLASSES = ["Background", "Paper", "Glass"]


@dataclass(frozen=True)
class TinyRun:
    checkpoints: dict[str, Path]
    ensemble: dict[str, Any]
    images: dict[str, NDArray[np.uint8]]


def _score(miou: float, num_classes: int) -> dict[str, Any]:
    iou = [miou] * num_classes
    return {
        "miou": miou,
        "low": miou - 0.02,
        "high": miou + 0.02,
        "iou": iou,
        "iou_low": [v - 0.05 for v in iou],
        "iou_high": [v + 0.05 for v in iou],
    }


def make_ensemble(classes: list[str], members: list[dict[str, Any]], shipped: str = "member_class") -> dict[str, Any]:
    """ensemble.json of four rules over `members` (the second is left out by the last rule)."""
    num_members, num_classes = len(members), len(classes)
    rng = np.random.default_rng(1)
    single = np.zeros((num_members, num_classes))
    single[0] = 1
    rich = rng.uniform(0.2, 2, (num_members, num_classes)).astype(np.float32)
    rich[1:2] = 0
    gain = {"gain": 0.01, "low": -0.005, "high": 0.02, "p_positive": 0.9}
    rules = [
        {
            "name": name,
            "vote": {"hard_vote": "hard", "geometric_mean": "geometric"}.get(name, "soft"),
            "weights": weights.tolist(),
            "views": [member["views"] for member in members],
            "temperatures": [1.0 + 0.5 * m for m in range(num_members)],
            "val_fitted": _score(0.6, num_classes),
            "val_crossfit": _score(0.55, num_classes),
            "holdout": _score(0.5, num_classes),
            "gain_crossfit": gain,
            "gain_holdout": gain,
            "cost": float(np.count_nonzero(weights.any(axis=1))),
            "gain_over_rival_crossfit": gain,
            "gain_over_rival_holdout": gain,
        }
        for name, weights in (
            ("best_single", single),
            ("hard_vote", np.ones((num_members, num_classes))),
            ("geometric_mean", np.ones((num_members, num_classes))),
            ("member_class", rich),
        )
    ]
    return {
        "format": "segsearch-ensemble/1",
        "classes": classes,
        "background": True,
        "num_val": 2,
        "num_holdout": 3,
        "unit": "image",
        "caveats": ["three images only"],
        "members": members,
        "rules": rules,
        "cost_unit": "views",
        "latency_budget_ms": None,
        "pareto": [
            {
                "ms": float(n + 1),
                "miou_fitted": 0.6 + 0.01 * n,
                "miou_crossfit": 0.5 + 0.01 * n,
                "members": [str(member.get("trial")) for member in members[: n + 1]],
                "views": [["s1.00-none"]] * (n + 1),
                "front": True,
            }
            for n in range(num_members)
        ],
        "postprocess": {
            "rule": "member_class",
            "kept": False,
            "reason": "it does not pay",
            "steps": None,
            "gain": None,
        },
        "verdict": {
            "rule": shipped,
            "ship": "single" if shipped == "best_single" else "ensemble",
            "sentence": "Ship it.",
            "gain": gain,
            "num_images": 3,
        },
        "holdout_opened": [{"at": "2026-05-01T12:03:44+00:00", "by": "verdict"}],
        "confusion": {"split": "holdout", "rule": shipped, "counts": np.eye(num_classes, dtype=int).tolist()},
        "images": [{"image_id": f"{n}.jpg", "miou_single": 0.5, "miou_shipped": 0.9 - 0.1 * n} for n in range(3)],
    }


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> TinyRun:
    """Three members of two recipes: the second candidate has no weight in the shipped rule."""
    import torch

    from trainables.models.segmentor import build_segmentor
    from trainables.models.weights_file import save_weights
    from trainables.recipe.augmentation import Augmentation
    from trainables.recipe.recipe import Backbone, Recipe, SegFormerHead

    folder = tmp_path_factory.mktemp("run")
    members, checkpoints = [], {}
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
        checkpoints[trial] = folder / trial
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
        family = recipe.family
        members.append(
            {"trial": trial, "recipe_hash": recipe.hash, "family": family, "views": views, "val_miou": 0.5 - 0.01 * n}
        )
    rng = np.random.default_rng(0)
    sizes = {"a.png": (70, 90), "b/c.png": (70, 90), "b/d.png": (41, 64)}
    images = {name: rng.integers(0, 256, (*size, 3), dtype=np.uint8) for name, size in sizes.items()}
    return TinyRun(checkpoints, make_ensemble(CLASSES, members), images)


@pytest.fixture
def ensemble_maker() -> Any:
    """`make_ensemble`, for tests that need no networks."""
    return make_ensemble
