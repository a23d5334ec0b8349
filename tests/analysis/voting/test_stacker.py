"""The stacker against its formula, and where nothing was learnt."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from analysis.voting import stacker as module
from analysis.voting.stacker import Stacker
from analysis.voting.votes import Vote, labels_by_vote, stacked_scores, vote_labels

M, K, P = 3, 4, 20_000


def probabilities() -> np.ndarray:
    q = np.random.default_rng(0).dirichlet(np.full(K, 0.3), (M, P)).astype(np.float32)
    return np.ascontiguousarray(q.transpose(0, 2, 1))  # (M,K,P)


def made(num_hidden: int, fitted: tuple[bool, ...] = (True,) * K, strength: float = 1.0) -> Stacker:
    rng, sizes = np.random.default_rng(1), [M * K, *([num_hidden] if num_hidden else []), K]
    layers = []
    for i, o in pairwise(sizes):
        layers += [rng.normal(size=(o, i)) / 3, rng.normal(size=o)]
    for layer in layers[-2:]:
        layer[~np.array(fitted)] = 0
    return Stacker(tuple(layer.astype(np.float32) for layer in layers), np.array(fitted), strength)


@pytest.mark.parametrize("num_hidden", [0, 5])
def test_probabilities_are_the_softmax_of_the_corrected_mean(num_hidden: int) -> None:
    stacker, q = made(num_hidden, strength=0.7), probabilities()
    logs = np.log(np.maximum(q.astype(np.float64), 1e-6))
    values = logs.reshape(M * K, P)
    for n in range(0, len(stacker.layers), 2):
        values = stacker.layers[n] @ (np.maximum(values, 0) if n else values) + stacker.layers[n + 1][:, None]
    expected = np.exp(logs.mean(0) + 0.7 * values)
    np.testing.assert_allclose(stacker.probabilities(q), expected / expected.sum(0), atol=2e-5)
    assert (stacker.num_members, stacker.num_classes, stacker.num_hidden) == (M, K, num_hidden)


@pytest.mark.parametrize("num_hidden", [0, 5])
def test_without_strength_it_is_the_geometric_mean_label_for_label(num_hidden: int) -> None:
    q, ones = probabilities(), np.ones((M, K), np.float32)
    found = vote_labels(q, Vote("stacked", ones, made(num_hidden, strength=0.0)))
    np.testing.assert_array_equal(found, vote_labels(q, Vote("geometric", ones)))


def test_a_class_that_was_not_fitted_keeps_the_geometric_mean_and_the_others_share_the_rest() -> None:
    q, some = probabilities(), (True, False, True, True)
    found, plain = made(5, some).probabilities(q), made(5, some, strength=0.0).probabilities(q)
    np.testing.assert_allclose(found[1], plain[1], rtol=1e-5)
    np.testing.assert_allclose(found.sum(0), 1, atol=1e-5)
    assert (vote_labels(q, Vote("stacked", np.ones((M, K), np.float32), made(5, some)))[plain[1] > 0.5] == 1).all()
    assert np.abs(found[0] - plain[0]).max() > 0.1


def test_votes_of_one_map_are_labelled_as_each_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    q, rng = probabilities(), np.random.default_rng(2)
    weights = [np.tile(rng.uniform(0.2, 2, K).astype(np.float32), (M, 1)) for _ in range(3)]
    votes = [Vote("stacked", w, made(5, strength=s)) for w, s in zip(weights, (1.0, 0.5, 0.0), strict=True)]
    votes.insert(1, Vote("soft", weights[0]))
    together = labels_by_vote(q, votes)
    for row, vote in zip(together, votes, strict=True):
        np.testing.assert_array_equal(row, vote_labels(q, vote))
    for vote in votes[2:]:
        assert (stacked_scores(q, vote).argmax(0) == vote_labels(q, vote)).mean() > 0.9999
    monkeypatch.setattr(module, "BLOCK", 999)
    assert (labels_by_vote(q, votes) != together).mean() < 1e-4  # a product of another size may move a last bit


def test_members_without_weight_are_not_read() -> None:
    q, weights = probabilities(), np.ones((M + 1, K), np.float32)
    weights[1] = 0
    wide = np.concatenate([q[:1], np.full_like(q[:1], np.nan), q[1:]])
    vote = Vote("stacked", weights, made(5))
    np.testing.assert_array_equal(vote_labels(wide, vote), vote_labels(q, vote.of_used()))


def test_keys_tell_apart_maps_strengths_and_class_weights() -> None:
    ones = np.ones((M, K), np.float32)
    votes = [Vote("stacked", ones, made(5)), Vote("stacked", ones, made(0)), Vote("stacked", 2 * ones, made(5))]
    votes += [Vote("stacked", ones, made(5, strength=0.5)), Vote("stacked", ones, made(5, (True, True, True, False)))]
    assert len({vote.key for vote in votes}) == 5
    assert Vote("stacked", ones, made(5)).key == votes[0].key
    assert made(5).map_key == made(5, strength=0.5).map_key
