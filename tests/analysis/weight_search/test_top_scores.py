"""The two highest scores of every pixel, against a sort of all of them."""

from __future__ import annotations

import numpy as np
import pytest

from analysis.weight_search.pixels import Pixels, WeightBounds
from analysis.weight_search.top_scores import UNKNOWN, rescore, top_two

M, K, P = 3, 5, 2500
State = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def problem(seed: int, *, ties: bool = False) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """q (M,K,P), weights (M,K), truth (P,); with `ties` all scores are small whole numbers."""
    rng = np.random.default_rng(seed)
    q = rng.integers(0, 3, (M, K, P)) if ties else rng.dirichlet(np.ones(K), (M, P)).transpose(0, 2, 1)
    weights = rng.integers(1, 3, (M, K)) if ties else rng.uniform(0.1, 2, (M, K))
    truth = rng.integers(0, K, P).astype(np.uint8)
    truth[::9] = 255
    return np.ascontiguousarray(q, np.float32), weights.astype(np.float32), truth


def scores_of(q: np.ndarray, weights: np.ndarray) -> np.ndarray:
    scores = np.zeros(q.shape[1:], np.float32)
    for m in range(len(q)):  # in the order of a vote: float32 sums are then equal to the last bit
        scores += weights[m][:, None] * q[m]
    return scores


def from_scratch(q: np.ndarray, weights: np.ndarray) -> State:
    best, second, third = np.empty((3, P), np.float32)
    who, runner = np.empty((2, P), np.uint8)
    top_two(q, weights, best, second, third, who, runner)
    return best, second, third, who, runner


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_from_scratch_they_are_a_stable_sorts_first_three(seed: int, ties: bool) -> None:
    q, weights, _ = problem(seed, ties=ties)
    scores = scores_of(q, weights)
    order = np.argsort(-scores, axis=0, kind="stable")  # the lower class first of equals
    first, second, third = np.take_along_axis(scores, order, axis=0)[:3]
    for found, expected in zip(from_scratch(q, weights), (first, second, third, order[0], order[1]), strict=True):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("k", range(K))
def test_after_a_column_moved_they_are_those_of_the_new_weights(k: int, ties: bool) -> None:
    q, weights, _ = problem(k, ties=ties)
    state = from_scratch(q, weights)
    moved = weights.copy()
    moved[:, k] *= 2
    rescore(q, moved, k, *state)
    best, second, third, who, runner = state
    fresh = from_scratch(q, moved)
    np.testing.assert_array_equal(best, fresh[0])
    np.testing.assert_array_equal(who, fresh[3])
    known = runner != UNKNOWN
    np.testing.assert_array_equal(second[known], fresh[1][known])
    np.testing.assert_array_equal(runner[known], fresh[4][known])
    assert (second >= fresh[1]).all()  # a bound where the runner is not known
    assert (third >= fresh[2])[known].all()


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("k", range(K))
def test_no_pixel_outside_reach_changes_hands_and_what_is_won_is_counted(k: int, ties: bool) -> None:
    q, weights, truth = problem(10 + k, ties=ties)
    pixels, none = Pixels(q, truth), np.zeros(M, np.float32)
    pixels.restart(weights)
    low, high = weights[:, k] * np.float32(0.5), weights[:, k] * np.float32(2)
    held = pixels.open(k, WeightBounds(low, high, none, none))
    labelled, before = truth != 255, scores_of(q, weights).argmax(0)
    reachable = np.bincount(pixels.kinds[: pixels.score.size] // 3, minlength=K).sum()
    changed = np.zeros(P, bool)
    for column in (weights[:, k], low, high, 0.5 * (low + high)):
        trial = weights.copy()
        trial[:, k] = column
        after = scores_of(q, trial).argmax(0)
        changed |= (after != before) & labelled
        won, lost = ((after == k) & (before != k) & labelled).sum(), ((after != k) & (before == k) & labelled).sum()
        counts = pixels.won_counts(column)
        assert counts.sum() - held.sum() == won - lost
        right = (after == k) & (truth == k)
        assert counts[:, 1].sum() - held[:, 1].sum() == right.sum() - ((before == k) & (truth == k)).sum()
    assert 0 < changed.sum() <= reachable < labelled.sum()
