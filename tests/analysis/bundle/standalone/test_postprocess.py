"""Post-processing without this project gives the label maps of the project's own."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from analysis.bundle.standalone.postprocess import postprocess
from analysis.postprocess import label_map
from analysis.postprocess.options import Postprocess

K = 4
SIZES = (0.0, 0.002, 0.01, 0.05)


@pytest.mark.parametrize("seed", range(12))
def test_label_maps_are_the_projects(seed: int) -> None:
    rng = np.random.default_rng(seed)
    height, width = rng.integers(20, 70, 2)
    label = ndimage.gaussian_filter(rng.normal(size=(K, height, width)), (0, 2, 2)).argmax(0).astype(np.uint8)
    specks = rng.random(label.shape) < 0.06
    label[specks] = rng.integers(0, K, int(specks.sum()))
    components, holes = (rng.choice(SIZES, K).tolist() for _ in range(2))
    expected = label_map.postprocess(label, Postprocess(min_component=tuple(components), max_hole=tuple(holes)))
    np.testing.assert_array_equal(postprocess(label, components, holes), expected)


@pytest.mark.parametrize("label", [np.zeros((1, 1), np.uint8), np.arange(4, dtype=np.uint8).reshape(2, 2)])
def test_what_is_too_small_to_clean_is_left(label: np.ndarray) -> None:
    np.testing.assert_array_equal(postprocess(label, [0.9] * K, [0.9] * K), label)
