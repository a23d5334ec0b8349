"""The smoothed mIoU: its gradient against differences, and what it is for: starts from which the search ends higher."""

from __future__ import annotations

import numpy as np
import pytest

from analysis.weight_search.soft_miou import ascend, soft_miou
from analysis.weight_search.strata import Strata


def problem(seed: int, num_pixels: int = 400) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    truth = rng.choice(4, num_pixels, p=[0.6, 0.25, 0.1, 0.05]).astype(np.uint8)
    logits = rng.normal(size=(3, 4, num_pixels))
    logits[:, truth, np.arange(num_pixels)] += rng.uniform(0, 3, (3, 4))[:, truth]
    q = np.exp(logits)
    return (q / q.sum(1, keepdims=True)).astype(np.float32), truth


def test_the_gradient_is_that_of_small_differences() -> None:
    q, truth = problem(0)
    strata = Strata((150, 400), (1, 4))
    weights = np.random.default_rng(1).uniform(0.5, 2, (3, 4)).astype(np.float32)
    _, slope = soft_miou(q, truth, weights, strata)
    for m, k in [(0, 0), (1, 2), (2, 3)]:
        step = np.zeros_like(weights)
        step[m, k] = 4e-3
        up, down = (soft_miou(q, truth, weights + sign * step, strata)[0] for sign in (1, -1))
        assert slope[m, k] == pytest.approx((up - down) / 8e-3, rel=0.03, abs=2e-5)


def test_the_smoothed_score_is_the_mean_of_soft_jaccard_indices() -> None:
    q, truth = problem(1)
    weights, strata = np.full((3, 4), 0.5, np.float32), Strata((100, 400), (1, 3))
    share = q.astype(np.float64).sum(0) ** 4
    share /= share.sum(0)
    own = np.arange(4)[:, None] == truth
    hits, claimed, held = ((x * strata.per_pixel()).sum(1) for x in (share * own, share, own))
    assert soft_miou(q, truth, weights, strata)[0] == pytest.approx((hits / (held + claimed - hits)).mean(), abs=1e-6)


@pytest.mark.parametrize("free", ["class", "member", "member_class"])
def test_only_what_is_free_moves_and_the_smoothed_score_rises(free: str) -> None:
    q, truth = problem(2)
    start = np.ones((3, 4), np.float32)
    start[2] = 0
    found = ascend(q, truth, start, free, 16.0)
    assert (found[2] == 0).all()
    assert found.max() <= 16
    assert (free == "class") == bool((found[:2] == found[:1]).all())
    assert (free == "member") == bool((found == found[:, :1]).all())
    strata = Strata((400,), (1,))
    assert soft_miou(q, truth, found, strata)[0] > soft_miou(q, truth, start, strata)[0]
