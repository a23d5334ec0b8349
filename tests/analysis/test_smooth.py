"""The smoothed mIoU: its gradient against differences, and what it is for: starts from which the search ends higher."""

from __future__ import annotations

import numpy as np
import pytest

from analysis.smooth import _soft_miou, ascend


def problem(seed: int, num_pixels: int = 400) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    truth = rng.choice(4, num_pixels, p=[0.6, 0.25, 0.1, 0.05]).astype(np.uint8)
    logits = rng.normal(size=(3, 4, num_pixels))
    logits[:, truth, np.arange(num_pixels)] += rng.uniform(0, 3, (3, 4))[:, truth]
    q = np.exp(logits)
    return (q / q.sum(1, keepdims=True)).astype(np.float32), truth


def onehot_of(truth: np.ndarray) -> np.ndarray:
    return (np.arange(4)[:, None] == truth).astype(np.float32)


def test_the_gradient_is_that_of_small_differences() -> None:
    q, truth = problem(0)
    weights = np.random.default_rng(1).uniform(0.5, 2, (3, 4)).astype(np.float32)
    _, slope = _soft_miou(q, onehot_of(truth), weights)
    for m, k in [(0, 0), (1, 2), (2, 3)]:
        step = np.zeros_like(weights)
        step[m, k] = 1e-2
        up, down = (_soft_miou(q, onehot_of(truth), weights + sign * step)[0] for sign in (1, -1))
        assert slope[m, k] == pytest.approx((up - down) / 2e-2, rel=0.02, abs=1e-5)


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
    assert _soft_miou(q, onehot_of(truth), found)[0] > _soft_miou(q, onehot_of(truth), start)[0]
