"""The search over actors against the search in this process."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import ray

from analysis.coordinate import fit_parts
from analysis.part import Part
from analysis.strata import Strata
from search.parts import RayPixels

MEMBERS, CLASSES, IDS = 3, 4, [f"{i}.jpg" for i in range(7)]


def pixels(image_id: str) -> tuple[np.ndarray, np.ndarray]:
    """An image's probabilities (M,K,P) and labels (P,), some ignored."""
    rng = np.random.default_rng(IDS.index(image_id))
    truth = rng.integers(0, CLASSES, 300 + 50 * IDS.index(image_id)).astype(np.uint8)
    known = np.arange(CLASSES)[:, None] == truth
    strength = rng.uniform(0, 2, (MEMBERS, CLASSES, 1)) * known
    q = np.exp(strength + rng.normal(size=(MEMBERS, CLASSES, truth.size)))
    truth[::9] = 255
    return (q / q.sum(1, keepdims=True)).astype(np.float32), truth


@dataclass(frozen=True)
class Making:
    """The job: a part in two strata."""

    device: None = None

    def __call__(self, ids: Sequence[str]) -> Part:
        q, truth = zip(*(pixels(image_id) for image_id in ids), strict=True)
        num = sum(t.size for t in truth)
        return Part(np.concatenate(q, axis=2), np.concatenate(truth), Strata((num // 3, num), (1, 4)))


@pytest.fixture
def by_value(local_ray: None) -> None:
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import a test


@pytest.mark.parametrize("free", ["member", "member_class"])
def test_actors_find_the_weights_of_one_process(by_value: None, free: Any) -> None:
    starts = [np.ones((MEMBERS, CLASSES), np.float32)]
    shares = [IDS[:4], IDS[4:]]  # as array_split divides seven images
    expected = fit_parts([Making()(share) for share in shares], starts, free, max_sweeps=2, coarse_pixels=500)
    with RayPixels(Making(), IDS, 2) as parts:
        found = fit_parts([parts], starts, free, max_sweeps=2, coarse_pixels=500)
    np.testing.assert_array_equal(found.weights, expected.weights)
    np.testing.assert_array_equal(found.confusion, expected.confusion)
    assert found.trace == expected.trace
