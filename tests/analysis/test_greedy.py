"""Greedy selection against a plain float64 one."""

from __future__ import annotations

import numpy as np
import pytest

from analysis.greedy import forward, select_members
from analysis.strata import Strata
from trainables.metrics import confusion, miou


def members(seed: int, num: int = 4) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 5, 2000).astype(np.uint8)
    logits = 1.5 * rng.normal(size=(num, 5, 2000))
    logits[:, truth, np.arange(2000)] += rng.uniform(0, 2, (num, 1))
    q = np.exp(logits)
    truth[:50] = 255
    return (q / q.sum(1, keepdims=True)).astype(np.float32), truth


def plain(q: np.ndarray, truth: np.ndarray, num_picks: int) -> tuple[list[int], list[float]]:
    """Caruana's loop, straightforward."""
    total = np.zeros(q.shape[1:])
    picked: list[int] = []
    scores: list[float] = []
    for _ in range(num_picks):
        trials = [float(miou(confusion(truth, (total + row).argmax(0).astype(np.uint8), 5))) for row in q]
        picked.append(int(np.argmax(trials)))
        scores.append(max(trials))
        total += q[picked[-1]]
    return picked, scores


@pytest.mark.parametrize("seed", range(4))
def test_selection_equals_a_plain_one(seed: int) -> None:
    q, truth = members(seed)
    picks = forward(q, truth, None, 8, -1.0, again=True)
    expected = plain(q, truth, 8)
    assert picks.members == expected[0]
    np.testing.assert_allclose(picks.miou, expected[1], atol=1e-3)  # float32 against float64 near ties


def test_the_best_prefix_is_kept() -> None:
    q, truth = members(1)
    picks = forward(q, truth, None, 20, -1.0, again=True)
    weights = select_members(q, truth, 20)
    assert weights.shape == (4, 5)
    assert weights[:, 0].sum() == int(np.argmax(picks.miou)) + 1


def test_identical_members_give_the_first_alone() -> None:
    q, truth = members(2, num=1)
    np.testing.assert_array_equal(select_members(np.repeat(q, 3, 0), truth)[:, 0], [1, 0, 0])


def test_without_replacement_a_row_is_picked_once_and_the_first_is_given() -> None:
    q, truth = members(3)
    picks = forward(q, truth, 2, 10, -1.0, again=False)
    assert picks.members[0] == 2
    assert sorted(picks.members) == [0, 1, 2, 3]


def test_a_pick_that_gains_too_little_ends_it() -> None:
    q, truth = members(4)
    assert forward(q, truth, 1, 10, 0.9, again=False).members == [1]


def test_a_pixel_that_counts_three_times_is_one_that_occurs_three_times() -> None:
    q, truth = members(5)
    strata = Strata((700, 2000), (1, 3))
    twin = np.arange(2000).repeat(strata.per_pixel())
    weighted = forward(q, truth, None, 6, -1.0, again=True, strata=strata)
    assert weighted == forward(np.ascontiguousarray(q[:, :, twin]), truth[twin], None, 6, -1.0, again=True)
