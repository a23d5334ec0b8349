"""Votes against plain numpy, ties included."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from analysis.voting.votes import Vote, labels_by_vote, shrunk, single, vote_labels
from analysis.weight_search.sample_confusion import sample_confusion
from analysis.weight_search.strata import Strata
from trainables.metrics import confusion


def probabilities(seed: int = 0, num_members: int = 3, num_pixels: int = 3000) -> np.ndarray:
    q = np.random.default_rng(seed).dirichlet(np.ones(5), (num_members, num_pixels)).astype(np.float32)
    return np.ascontiguousarray(q.transpose(0, 2, 1))  # (M,K,P)


@pytest.mark.parametrize("num_pixels", [1, 1023, 1024, 1025, 3000])
def test_a_soft_vote_is_the_argmax_of_the_weighted_sum(num_pixels: int) -> None:
    q = probabilities(num_pixels=num_pixels)
    weights = np.random.default_rng(1).uniform(0, 2, (3, 5)).astype(np.float32)
    weights[1, 2] = 0
    expected = np.einsum("mk,mkp->kp", weights.astype(np.float64), q).argmax(0)
    np.testing.assert_array_equal(vote_labels(q, Vote("soft", weights)), expected)


def test_the_lowest_class_wins_a_soft_tie() -> None:
    q = np.full((2, 4, 10), 0.25, np.float32)
    assert (vote_labels(q, Vote("soft", np.ones((2, 4), np.float32))) == 0).all()


def test_a_geometric_vote_is_the_argmax_of_the_product() -> None:
    q = probabilities(4, num_pixels=70000)
    found = vote_labels(q, Vote("geometric", np.ones((3, 5), np.float32)))
    product = np.maximum(q, 1e-6).astype(np.float64).prod(0)  # (K,P)
    np.testing.assert_array_equal(found, product.argmax(0))


def test_one_firm_no_outweighs_lukewarm_others_in_a_geometric_vote_alone() -> None:
    q = np.array([[0.6, 0.4], [0.6, 0.4], [0.0, 1.0]], np.float32)[:, :, None]  # (M,K,1)
    weights = np.array([[1, 1], [1, 1], [0.1, 0.1]], np.float32)
    assert vote_labels(q, Vote("geometric", weights)) == 1
    assert vote_labels(q, Vote("soft", weights)) == 0


def test_a_hard_vote_is_the_majority() -> None:
    q = probabilities(2, num_members=5)
    ballots = q.argmax(1)  # (M,P)
    votes = np.stack([(ballots == k).sum(0) for k in range(5)])
    clear = np.sort(votes, 0)[-1] > np.sort(votes, 0)[-2]
    found = vote_labels(q, Vote("hard", np.ones((5, 5), np.float32)))
    np.testing.assert_array_equal(found[clear], votes.argmax(0)[clear])


def test_a_hard_tie_goes_to_the_label_of_the_best_member_in_it() -> None:
    ballots = np.array([[4, 1, 0], [2, 2, 3], [2, 1, 3], [4, 3, 0], [0, 0, 1]])  # (M,P), best member first
    q = np.ascontiguousarray(np.eye(5, dtype=np.float32)[ballots].transpose(0, 2, 1))
    found = vote_labels(q, Vote("hard", np.ones((5, 5), np.float32)))
    np.testing.assert_array_equal(found, [4, 1, 0])


def test_members_without_weight_do_not_vote() -> None:
    q = probabilities(3)
    weights = np.ones((3, 5), np.float32)
    weights[0] = 0
    for kind in ("soft", "geometric", "hard"):
        with_it = vote_labels(q, Vote(kind, weights))  # type: ignore[arg-type]
        np.testing.assert_array_equal(with_it, vote_labels(q[1:].copy(), Vote(kind, weights[1:].copy())))  # type: ignore[arg-type]
    assert Vote("soft", weights).used == [1, 2]


@pytest.mark.parametrize("kind", ["soft", "geometric", "hard"])
def test_identical_members_vote_like_one(kind: str) -> None:
    q = probabilities(4, num_members=1)
    alone = vote_labels(q, Vote("soft", np.ones((1, 5), np.float32)))
    np.testing.assert_array_equal(vote_labels(np.repeat(q, 4, 0), Vote(kind, np.ones((4, 5), np.float32))), alone)  # type: ignore[arg-type]


def test_counts_of_a_sample_are_those_of_its_labels() -> None:
    q, weights = probabilities(5), single(3, 5, 1)
    truth = np.random.default_rng(5).integers(0, 6, 3000).astype(np.uint8)
    truth[truth == 5] = 255
    expected = confusion(truth, vote_labels(q, Vote("soft", weights)), 5)
    np.testing.assert_array_equal(sample_confusion(q, weights, truth), expected)


def test_shrinking_goes_from_the_fitted_to_the_plain_weights_whatever_their_scale() -> None:
    q, plain = probabilities(6), np.ones((3, 5), np.float32)
    weights = np.random.default_rng(6).uniform(0, 3, (3, 5)).astype(np.float32)
    np.testing.assert_array_equal(
        vote_labels(q, Vote("soft", shrunk(weights, plain, 0.0))), vote_labels(q, Vote("soft", weights))
    )
    np.testing.assert_array_equal(shrunk(weights, plain, 1.0), plain)
    np.testing.assert_allclose(shrunk(weights, plain, 0.5), shrunk(7 * weights, plain, 0.5), rtol=1e-6)


def test_many_votes_at_once_are_each_vote_alone() -> None:
    q, rng = probabilities(7), np.random.default_rng(7)
    votes = [Vote(("soft", "hard", "geometric")[v % 3], rng.uniform(0, 2, (3, 5)).astype(np.float32)) for v in range(4)]
    np.testing.assert_array_equal(labels_by_vote(q, votes), [vote_labels(q, vote) for vote in votes])


def test_a_sample_counts_each_pixel_as_often_as_it_weighs() -> None:
    q = np.random.default_rng(4).random((2, 3, 5000)).astype(np.float32)
    truth = np.random.default_rng(5).integers(0, 3, 5000).astype(np.uint8)
    strata, weights = Strata((1300, 5000), (1, 4)), np.ones((2, 3), np.float32)
    twin = np.arange(5000).repeat(strata.per_pixel())
    expected = sample_confusion(np.ascontiguousarray(q[:, :, twin]), weights, truth[twin])
    np.testing.assert_array_equal(sample_confusion(q, weights, truth, strata), expected)


def test_strata_of_another_sample_are_refused() -> None:
    with pytest.raises(ValueError, match="must end at the last of 10 pixels"):
        sample_confusion(np.ones((1, 2, 10), np.float32), np.ones((1, 2), np.float32), np.zeros(10, np.uint8),
                         Strata((4, 9), (1, 2)))  # fmt: skip


AFTER_A_FAST_KERNEL = """
import numpy as np
from analysis.voting.votes import class_scores
from analysis.weight_search.soft_miou import ascend
from analysis.weight_search.strata import of_pixels
rng = np.random.default_rng(0)
q, weights = rng.random((2, 3, 3000)).astype(np.float32), rng.random((2, 3)).astype(np.float32)
truth = rng.integers(0, 3, 3000).astype(np.uint8)
ascend(q, truth, weights, "member_class", 16.0, of_pixels(None, 3000))
out = np.empty(3000, np.float32)
class_scores(q, weights, 1, 0, 3000, out)
assert np.array_equal(out, weights[0, 1] * q[0, 1] + weights[1, 1] * q[1, 1]), "a score was rounded once, not twice"
"""


@pytest.mark.slow
def test_scores_are_rounded_alike_whichever_kernel_was_compiled_first(tmp_path: Path) -> None:
    env = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", AFTER_A_FAST_KERNEL], capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
