"""The greedy search over pairs against every subset, on problems whose best is known."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from analysis.ensembling.view_search import Pairs, WeighedPixels, search_path
from analysis.weight_search.sample_confusion import sample_confusion
from trainables.metrics import miou

K, P = 4, 6000
TRUTH = np.random.default_rng(0).integers(0, K, P).astype(np.uint8)
TIMES = np.ones(P, np.int32)


def pair(strength: float, seed: int, classes: tuple[int, ...] = (0, 1, 2, 3)) -> np.ndarray:
    """(K,P): probabilities that know some classes."""
    logits = 1.5 * np.random.default_rng(seed).normal(size=(K, P))
    known = np.isin(TRUTH, classes)
    logits[TRUTH[known], np.flatnonzero(known)] += strength
    q = np.exp(logits)
    return (q / q.sum(0)).astype(np.float32)


def score(q: np.ndarray, shares: np.ndarray) -> float:
    return float(miou(sample_confusion(q, np.repeat(shares[:, None], K, 1).astype(np.float32), TRUTH)))


def best_of_all(q: np.ndarray, pairs: Pairs, budget: float) -> tuple[float, tuple[int, ...]]:
    """The best subset within the budget, the two members' weights on a grid."""
    found = (0.0, ())
    for size in range(1, len(q) + 1):
        for chosen in combinations(range(len(q)), size):
            if sum(pairs.costs[r] for r in chosen) > budget:
                continue
            for ratio in (1.0,) if len({pairs.members[r] for r in chosen}) == 1 else (0.25, 0.5, 0.7, 1, 1.4, 2, 4):
                shares = np.zeros(len(q))
                for r in chosen:
                    same = sum(pairs.members[c] == pairs.members[r] for c in chosen)
                    shares[r] = (ratio if pairs.members[r] else 1.0) / same
                found = max(found, (score(q, shares), chosen))  # type: ignore[assignment]
    return found


PLANTED = {  # two members with two views each: strengths a view, costs
    "all are of use": ([pair(2, 1), pair(2, 2), pair(2, 3), pair(2, 4)], (1.0, 1.0, 1.0, 1.0)),
    "one view is noise": ([pair(2, 1), pair(0, 2), pair(2, 3), pair(1.5, 4)], (1.0, 1.0, 1.0, 1.0)),
    "each knows half": ([pair(5, 1, (0, 1)), pair(5, 2, (0, 1)), pair(5, 3, (2, 3)), pair(5, 4, (2, 3))], (1, 2, 1, 2)),
    "a dear member": ([pair(3, 1), pair(2, 2), pair(1.8, 3), pair(1.8, 4)], (10.0, 10.0, 1.0, 1.0)),
}


@pytest.mark.parametrize("name", PLANTED)
@pytest.mark.parametrize("budget", [1.0, 2.0, 3.0, 11.0, 99.0])
def test_no_subset_within_the_budget_is_better(name: str, budget: float) -> None:
    views, costs = PLANTED[name]
    q, pairs = np.stack(views), Pairs((0, 0, 1, 1), ("a", "b", "a", "b"), costs)
    paths = [
        search_path(WeighedPixels(q, TRUTH, TIMES), pairs, budget=budget, per_cost=per_cost)
        for per_cost in (False, True)
    ]
    steps = [step for path in paths for step in path]
    best, _ = best_of_all(q, pairs, budget)
    assert all(step.cost <= budget for step in steps)
    assert max(step.miou for step in steps) > best - 0.004  # the weights' grids differ


def test_a_step_is_what_it_says_and_the_score_never_falls() -> None:
    q = np.stack([pair(1 + 0.3 * r, r) for r in range(6)])
    path = search_path(WeighedPixels(q, TRUTH, TIMES), Pairs((0, 0, 1, 1, 2, 2), tuple("ababab"), (1.0,) * 6))
    assert [step.miou for step in path] == sorted({step.miou for step in path})
    for step in path:
        assert step.miou == pytest.approx(score(q, step.shares), abs=1e-3)
        assert set(np.flatnonzero(step.shares)) == set(step.pairs)
        assert step.cost == len(step.pairs)


def test_a_pair_that_a_later_one_replaces_is_dropped() -> None:
    q = np.stack([pair(2, 1), pair(2, 1), pair(5, 2)])
    path = search_path(WeighedPixels(q, TRUTH, TIMES), Pairs((0, 0, 1), ("a", "b", "a"), (1.0,) * 3), start=(0, 1))
    assert len(path[0].pairs) == 2
    assert 2 in path[-1].pairs
    assert len(path[-1].pairs) <= 2


def test_pixels_that_count_twice_are_as_good_as_two() -> None:
    views = [pair(1.5, r) for r in range(3)]
    pairs = Pairs((0, 1, 2), ("a",) * 3, (1.0,) * 3)
    truth = TRUTH.copy()
    truth[P // 2 :] = 255
    half = search_path(WeighedPixels(np.stack(views), truth, 2 * TIMES), pairs)
    cut = search_path(WeighedPixels(np.stack(views)[:, :, : P // 2], TRUTH[: P // 2], TIMES[: P // 2]), pairs)
    assert [step.pairs for step in half] == [step.pairs for step in cut]
    assert [step.miou for step in half] == [step.miou for step in cut]
