"""Greedy selection against a plain float64 one."""

from __future__ import annotations

import numpy as np
import pytest

from analysis.voting.votes import single
from analysis.weight_search.greedy_selection import best_member, select_members
from analysis.weight_search.pixels import Pixels
from analysis.weight_search.sample_confusion import sample_confusion
from analysis.weight_search.strata import Strata
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


@pytest.mark.parametrize("num_picks", [1, 8])
@pytest.mark.parametrize("seed", range(4))
def test_selection_equals_the_best_prefix_of_a_plain_one(seed: int, num_picks: int) -> None:
    q, truth = members(seed)
    picked, scores = plain(q, truth, num_picks)
    expected = np.bincount(picked[: int(np.argmax(scores)) + 1], minlength=4)
    np.testing.assert_array_equal(select_members(Pixels(q, truth), num_picks), np.repeat(expected[:, None], 5, 1))


def test_identical_members_give_the_first_alone() -> None:
    q, truth = members(2, num=1)
    np.testing.assert_array_equal(select_members(Pixels(np.repeat(q, 3, 0), truth))[:, 0], [1, 0, 0])


@pytest.mark.parametrize("seed", range(4))
def test_the_best_member_has_the_highest_miou(seed: int) -> None:
    q, truth = members(seed)
    scores = [miou(sample_confusion(q, single(4, 5, m), truth)) for m in range(4)]
    assert best_member(Pixels(q, truth)) == int(np.argmax(scores))


def test_counts_with_each_member_are_those_of_its_weight_raised_by_one() -> None:
    q, truth = members(6)
    q = np.round(q * 256) / 256  # sums are exact, in whichever order
    strata, weights = Strata((700, 2000), (1, 3)), np.array([2, 0, 1, 0], np.float32)
    found = Pixels(q, truth, strata).confusion_with_each(np.repeat(weights[:, None], 5, 1))
    for m in range(4):
        more = np.repeat((weights + (np.arange(4) == m))[:, None], 5, 1).astype(np.float32)
        np.testing.assert_array_equal(found[m], sample_confusion(q, more, truth, strata))


def test_a_pixel_that_counts_three_times_is_one_that_occurs_three_times() -> None:
    q, truth = members(5)
    strata = Strata((700, 2000), (1, 3))
    twin = np.arange(2000).repeat(strata.per_pixel())
    copied = Pixels(np.ascontiguousarray(q[:, :, twin]), truth[twin])
    np.testing.assert_array_equal(select_members(Pixels(q, truth, strata), 6), select_members(copied, 6))
