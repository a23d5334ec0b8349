"""Recipes become pipelines: presets, groups, policies; written down and replayed exactly."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import albumentations as A
import cv2
import numpy as np
import pytest

from trainables.data.augment.crop import ScaledCrop
from trainables.data.augment.pipeline import read_pipeline, reseed, train_transform, write_pipeline
from trainables.data.index import IGNORE_INDEX
from trainables.recipe.augmentation import PRESETS, Augmentation

ALL: dict[str, Any] = {
    "geometric": {"ShiftScaleRotate": {}, "Affine": {}, "Perspective": {}},
    "elastic": {"one_of": True, "ElasticTransform": {}, "Perspective": {}, "PiecewiseAffine": {}},
    "colour": {
        "PhotoMetricDistortion": {},
        "RandomBrightnessContrast": {},
        "HueSaturationValue": {},
        "CLAHE": {},
        "channels": {"one_of": True, "RGBShift": {}, "ChannelShuffle": {}},
    },
    "noise": {"GaussNoise": {}},
    "blur": {"one_of": True, "Blur": {"kernel_max_px": 8}, "GaussianBlur": {}, "MedianBlur": {}},
    "cutout": {"CoarseDropout": {}, "GridDropout": {"label": "keep", "cell_px": 32}},
}
POLICIES: list[dict[str, Any]] = [{"name": "trivial_augment"}, {"name": "rand_augment", "num_ops": 3, "magnitude": 0.8}]
RECIPES = [{"preset": name} for name in PRESETS] + [ALL] + [{"policy": policy} for policy in POLICIES]
IMAGE = cv2.resize(np.random.default_rng(0).integers(0, 256, (12, 15, 3), dtype=np.uint8), (150, 120))
LABEL = (IMAGE[..., 0] // 52).astype(np.uint8)


def pipeline_of(values: dict[str, Any]) -> A.Compose:
    unmixed = {"mosaic": None, "copy_paste": None}
    return train_transform(Augmentation.model_validate({"crop_px": 64, **values, **unmixed}), seed=0)


def sample(pipeline: A.Compose, *words: int) -> dict[str, Any]:
    reseed(pipeline, *words)
    return dict(pipeline(image=IMAGE, mask=LABEL))


@pytest.mark.parametrize("values", RECIPES, ids=lambda v: str(next(iter(v.values())))[:30])
def test_a_pipeline_written_down_replays_exactly(values: dict[str, Any], tmp_path: Path) -> None:
    pipeline = pipeline_of(values)
    write_pipeline(pipeline, tmp_path / "augmentation.json")
    assert json.loads((tmp_path / "augmentation.json").read_text())["transform"]["__class_fullname__"] == "Compose"
    copy = read_pipeline(tmp_path / "augmentation.json")
    for word in range(12):
        one, two = sample(pipeline, 3, word), sample(copy, 3, word)
        assert np.array_equal(one["image"], two["image"])
        assert np.array_equal(one["mask"], two["mask"])
        assert (one["image"].shape, one["image"].dtype, one["mask"].shape) == ((64, 64, 3), np.uint8, (64, 64))
        assert set(np.unique(one["mask"])) <= {*range(5), IGNORE_INDEX}


@pytest.mark.parametrize("policy", POLICIES, ids=lambda p: p["name"])
def test_policies_are_label_safe(policy: dict[str, Any]) -> None:
    pipeline = pipeline_of({"policy": policy, "colour_p": 0.0, "scale_min": 1.0, "scale_max": 1.0})
    grey = np.repeat((LABEL * 50)[..., None], 3, axis=2)
    ranks, changed = [], 0
    for word in range(60):
        reseed(pipeline, word)
        out = pipeline(image=grey, mask=LABEL)
        inside = cv2.erode(out["mask"], np.ones((5, 5))) == cv2.dilate(out["mask"], np.ones((5, 5)))
        means = [
            out["image"][inside & (out["mask"] == k)].mean() for k in range(5) if (inside & (out["mask"] == k)).any()
        ]
        ranks.append(bool(np.all(np.diff(means) > -3)))  # brighter classes stay brighter: nothing is inverted
        changed += not np.array_equal(np.unique(out["image"]), np.unique(grey))
    assert all(ranks)
    assert changed > 20


def test_operators_of_one_kind_draw_independently() -> None:
    pipeline = pipeline_of(
        {"colour_p": 0.0, "cutout": {"CoarseDropout": {"p": 0.5}}, "noise": {"GaussNoise": {"p": 0.5}}}
    )
    seen: Counter[tuple[bool, bool]] = Counter()
    plain = np.full((90, 90, 3), 90, np.uint8)
    for word in range(120):
        reseed(pipeline, word)
        out = pipeline(image=plain, mask=np.zeros((90, 90), np.uint8))
        kept = out["image"][out["mask"] == 0]
        seen[bool(kept.std() > 0), bool((out["image"] == 0).all(-1).any())] += 1
    assert min(seen[a, b] for a in (True, False) for b in (True, False)) > 12


def test_cut_out_pixels_are_ignored_unless_the_label_is_to_be_kept() -> None:
    for label, expected in (("ignore", True), ("keep", False)):
        pipeline = pipeline_of(
            {"colour_p": 0.0, "scale_min": 1.0, "cutout": {"CoarseDropout": {"p": 1.0, "label": label}}}
        )
        reseed(pipeline, 1)
        out = pipeline(image=np.full((90, 90, 3), 90, np.uint8), mask=np.zeros((90, 90), np.uint8))
        holes = (out["image"] == 0).all(-1)
        assert holes.any()
        assert np.all((out["mask"][holes] == IGNORE_INDEX) == expected)


def test_crops_are_drawn_anew_while_one_class_covers_too_much() -> None:
    label = np.zeros((256, 256), np.uint8)
    label[:, 200:] = 1

    def shares(cap: float) -> np.ndarray:
        pipeline = A.Compose([ScaledCrop(64, None, 1.0, 1.0, cap)])
        found = []
        for word in range(150):
            reseed(pipeline, word)
            found.append(
                np.bincount(pipeline(image=np.zeros((256, 256, 3), np.uint8), mask=label)["mask"].ravel()).max()
            )
        return np.array(found) / 64**2

    assert (shares(1.0) >= 0.75).mean() > 0.7
    assert (shares(0.75) >= 0.75).mean() < 0.35  # (3/4)^11 of the draws meet no such window
