"""Geometry: one resampling that does what albumentations' operators do, and moves labels as it moves images."""

from __future__ import annotations

import random
from typing import Any

import albumentations as A
import cv2
import numpy as np
import pytest
from albumentations.augmentations.geometric import functional as slow

from trainables.data.augment import geometry
from trainables.data.augment.crop import PAD_RGB
from trainables.data.index import IGNORE_INDEX
from trainables.recipe.operators import ElasticTransformOp

PALETTE = np.array([[(37 * k) % 256, (91 * k + 50) % 256, (173 * k + 100) % 256] for k in range(9)], np.uint8)
OPERATORS: dict[str, dict[str, Any]] = {
    "Affine": {"geometric": {"Affine": {"p": 1.0, "shear_limit_deg": 15.0}}},
    "ShiftScaleRotate": {"geometric": {"ShiftScaleRotate": {"p": 1.0}}},
    "Perspective": {"geometric": {"Perspective": {"p": 1.0}}},
    "ElasticTransform": {"elastic": {"ElasticTransform": {"p": 1.0}}},
    "ElasticTransform exact": {"elastic": {"ElasticTransform": {"p": 1.0, "exact": True}}},
    "PiecewiseAffine": {"elastic": {"PiecewiseAffine": {"p": 1.0}}},
    "all of them": {
        "geometric": {"Affine": {"p": 1.0}, "ShiftScaleRotate": {"p": 1.0}, "Perspective": {"p": 1.0}},
        "elastic": {"ElasticTransform": {"p": 1.0}, "PiecewiseAffine": {"p": 1.0}},
    },
}


def seeded(transform: A.BasicTransform, seed: int) -> A.BasicTransform:
    transform.set_random_state(np.random.default_rng(seed), random.Random(seed))
    return transform


def painted(seed: int, side: int = 128) -> tuple[np.ndarray, np.ndarray]:
    blocks = np.random.default_rng(seed).integers(0, len(PALETTE), (side // 32, side // 32)).astype(np.uint8)
    label = np.ascontiguousarray(np.kron(blocks, np.ones((32, 32), np.uint8)))
    return PALETTE[label], label


@pytest.mark.parametrize("name", list(OPERATORS))
def test_an_image_painted_by_its_label_still_is_afterwards(name: str) -> None:
    moved = 0.0
    for seed in range(6):
        image, label = painted(seed)
        out = seeded(geometry.Warp(**OPERATORS[name]), seed)(image=image, mask=label)
        mask = out["mask"]
        moved += float((mask != label).mean())
        nearest = np.abs(out["image"][..., None, :].astype(int) - PALETTE.astype(int)).sum(-1).argmin(-1)
        known = mask != IGNORE_INDEX
        inside = known & (cv2.erode(mask, np.ones((5, 5))) == cv2.dilate(mask, np.ones((5, 5))))
        inside[[0, 1, -2, -1]] = inside[:, [0, 1, -2, -1]] = False  # their neighbours may lie outside the source
        assert inside.mean() > 0.2
        assert np.array_equal(nearest[inside], mask[inside])
        away = cv2.erode((~known).astype(np.uint8), np.ones((5, 5)), borderValue=1) > 0
        assert np.all(out["image"][away] == PAD_RGB)
    assert moved > 0.1  # something was done


@pytest.mark.parametrize("name", list(OPERATORS))
def test_ignored_pixels_stay_ignored(name: str) -> None:
    label = np.full((64, 64), IGNORE_INDEX, np.uint8)
    for seed in range(4):
        out = seeded(geometry.Warp(**OPERATORS[name]), seed)(image=np.zeros((64, 64, 3), np.uint8), mask=label)
        assert np.all(out["mask"] == IGNORE_INDEX)


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ({"rotate": (25, 25)}, {"rotate_deg": 25.0}),
        ({"scale": {"x": (1.3, 1.3), "y": (0.8, 0.8)}}, {"scale": (1.3, 0.8)}),
        ({"shear": {"x": (12, 12), "y": (-7, -7)}}, {"shear_deg": (-12.0, 7.0)}),
        ({"translate_percent": {"x": (0.125, 0.125), "y": (-0.05, -0.05)}}, {"shift_px": (12.0, -4.0)}),
        ({"rotate": (25, 25), "scale": (1.2, 1.2), "shear": {"x": (-9, -9), "y": (0, 0)}},
         {"rotate_deg": 25.0, "scale": (1.2, 1.2), "shear_deg": (9.0, 0.0)}),
    ],
)  # fmt: skip
def test_the_matrix_is_albumentations_(theirs: dict[str, Any], ours: dict[str, Any]) -> None:
    image = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, (80, 96, 3), dtype=np.uint8), (0, 0), 3)
    given = {"scale": (1.0, 1.0), "rotate_deg": 0.0, "shear_deg": (0.0, 0.0), "shift_px": (0.0, 0.0), **ours}
    matrix = geometry.affine_matrix((80, 96), **given)
    mine = geometry.move(image, matrix, None, cv2.INTER_LINEAR, (0, 0, 0))
    same = {"scale": (1, 1), "rotate": (0, 0), "shear": (0, 0), "translate_percent": (0, 0)}
    reference = A.Affine(**{**same, **theirs}, p=1.0)(image=image)["image"]
    assert np.abs(mine.astype(int) - reference)[8:-8, 8:-8].mean() < 0.1


def test_the_quick_piecewise_affine_is_the_slow_one() -> None:
    height, width = 96, 120
    for seed in range(2):
        theirs = np.dstack(
            slow.create_piecewise_affine_maps((height, width), (4, 4), 0.05, False, np.random.default_rng(seed))  # type: ignore[arg-type]
        )
        points, to = geometry.control_points((height, width), (4, 4), 0.05, np.random.default_rng(seed))
        grid = geometry.coarse_grid(height, width, 1)
        every = geometry.shepard(grid, points, to, height, width)[1:-1, 1:-1]
        assert np.abs(every - theirs).max() < 0.01  # the same formula
        coarse = geometry.shepard(geometry.coarse_grid(height, width, 8), points, to, height, width)
        off = np.abs(geometry.enlarge(coarse, height, width, 8) - theirs)
        assert off.mean() < 0.5  # px; beside the control points, where the slow one has kinks, up to a few
        assert np.percentile(off, 99) < 4.0


def test_the_coarse_elastic_field_has_the_slow_one_s_strength_and_smoothness() -> None:
    operator = ElasticTransformOp(alpha=100.0, sigma_px=8.0)
    theirs = np.dstack(
        slow.generate_displacement_fields((384, 384), 100.0, 8.0, False, (0, 0), np.random.default_rng(0), "uniform")
    )
    grid = geometry.coarse_grid(384, 384, 4)
    mine = geometry.enlarge(geometry.elastic_field(operator, grid.shape[:2], 4, np.random.default_rng(1)), 384, 384, 4)
    assert mine.std() == pytest.approx(theirs.std(), rel=0.1)
    for lag in (4, 8, 16):
        mine_r, their_r = (np.corrcoef(f[:, lag:].ravel(), f[:, :-lag].ravel())[0, 1] for f in (mine, theirs))
        assert mine_r == pytest.approx(their_r, abs=0.06)


def test_one_of_applies_one_and_takes_p_as_weights() -> None:
    elastic = {"one_of": True, "p": 0.5, "ElasticTransform": {"p": 0.2}, "Perspective": {"p": 0.6}}
    transform = seeded(geometry.Warp(elastic=elastic), 0)
    chosen = [[type(o).__name__ for o in transform._chosen(transform._groups[1])] for _ in range(2000)]
    assert max(map(len, chosen)) == 1
    applied = [names[0] for names in chosen if names]
    assert len(applied) / 2000 == pytest.approx(0.5, abs=0.05)
    assert applied.count("PerspectiveOp") / len(applied) == pytest.approx(0.75, abs=0.05)


def test_the_identity_leaves_everything_as_it_is() -> None:
    image, label = painted(0)
    still = {"scale_limit": 0.0, "translate_limit": 0.0, "rotate_limit_deg": 0.0, "shear_limit_deg": 0.0, "p": 1.0}
    out = seeded(geometry.Warp({"Affine": still}), 0)(image=image, mask=label)
    assert np.array_equal(out["image"], image)
    assert np.array_equal(out["mask"], label)
    grid = geometry.coarse_grid(50, 70, 8)
    assert np.abs(geometry.enlarge(grid, 50, 70, 8) - np.dstack(np.meshgrid(np.arange(70), np.arange(50)))).max() < 1e-3
