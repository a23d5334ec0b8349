"""Labels from several members' probabilities: soft votes with weights, geometric means, the hard vote, stacking.

Probabilities are (M,K,P) float32, members best first, weights (M,K), labels (P,) uint8. Every score is one float32 sum
over the members in their order, and the lowest class wins a tie: fitting, cross-fitting, the hold-out and a bundle that
adds in the same order agree to the last pixel.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numba
import numpy as np
from numpy.typing import NDArray

from analysis.voting import stacker as stacking
from analysis.voting.stacker import LEAST, Stacker

Float = NDArray[np.float32]
Labels = NDArray[np.uint8]
BLOCK = 1024  # pixels worked on at once: the scores of a block stay in the first caches


@dataclass(frozen=True)
class Vote:
    """How members are joined. Soft: class k scores sum over m of weights[m,k] * probability, the highest wins.
    Geometric: the same of log probabilities, so that one member's firm no outweighs several lukewarm ones. Hard:
    each member with any weight casts one vote for its own label; ties go to the label of the best (first) member
    among them. Stacked: class k scores weights[m,k], the same of every member with any weight, times what the stacker
    makes of these members' probabilities."""

    kind: Literal["soft", "geometric", "hard", "stacked"]
    weights: Float  # (M,K)
    stacker: Stacker | None = None  # of the members with any weight

    def __post_init__(self) -> None:
        assert (self.stacker is not None) == (self.kind == "stacked"), "a stacked vote alone has a stacker"

    @property
    def used(self) -> list[int]:
        """Members that can change a label."""
        return [m for m in range(self.weights.shape[0]) if bool((self.weights[m] != 0).any())]

    @property
    def key(self) -> tuple[object, ...]:
        """Equal votes have equal keys."""
        how = () if self.stacker is None else (self.stacker.map_key, self.stacker.strength)
        return self.kind, self.weights.tobytes(), *how

    def of_used(self) -> Vote:
        """The same over the members that can change a label alone."""
        return Vote(self.kind, self.weights[self.used], self.stacker)


def used_by(votes: Sequence[Vote]) -> list[int]:
    """The members that any of the votes uses."""
    return sorted({m for vote in votes for m in vote.used})


@numba.njit(cache=True, nogil=True, error_model="numpy", fastmath=False)
def class_scores(q, weights, k, start, stop, out):  # type: ignore[no-untyped-def] # (M,K,P), (M,K) -> out (stop - start,)
    """The one place where a score is summed: members in order, zero weights left out."""
    num, num_members = stop - start, q.shape[0]
    out[:num] = np.float32(0)
    m = 0
    while m < num_members:  # two members a pass: the sums are read and written half as often, and stay the same
        first = m
        while first < num_members and weights[first, k] == 0:
            first += 1
        second = first + 1
        while second < num_members and weights[second, k] == 0:
            second += 1
        if second < num_members:
            w, v = weights[first, k], weights[second, k]
            one, two = q[first, k, start:stop], q[second, k, start:stop]
            for i in range(num):
                out[i] = (out[i] + w * one[i]) + v * two[i]
        elif first < num_members:
            w, one = weights[first, k], q[first, k, start:stop]
            for i in range(num):
                out[i] += w * one[i]
        m = second + 1


@numba.njit(cache=True, nogil=True, error_model="numpy", fastmath=False)
def block_labels(q, weights, start, stop, score, best, who):  # type: ignore[no-untyped-def] # writes who (stop - start,)
    num = stop - start
    class_scores(q, weights, 0, start, stop, best)
    who[:num] = 0
    for k in range(1, q.shape[1]):
        class_scores(q, weights, k, start, stop, score)
        for i in range(num):
            better = score[i] > best[i]
            best[i] = score[i] if better else best[i]
            who[i] = np.int32(k) if better else who[i]


@numba.njit(cache=True, nogil=True, error_model="numpy", fastmath=False)
def _soft_labels(q, weights, out):  # type: ignore[no-untyped-def] # (M,K,P), (V,M,K) -> (V,P) uint8
    score, best = np.empty(BLOCK, np.float32), np.empty(BLOCK, np.float32)
    who = np.empty(BLOCK, np.int32)
    for start in range(0, out.shape[1], BLOCK):
        stop = min(start + BLOCK, out.shape[1])
        for v in range(out.shape[0]):  # all votes while the block's probabilities are near
            block_labels(q, weights[v], start, stop, score, best, who)
            target = out[v, start:stop]
            for i in range(stop - start):
                target[i] = who[i]


@numba.njit(cache=True, nogil=True, error_model="numpy", fastmath=False)
def _majority(ballots, num_classes, out):  # type: ignore[no-untyped-def] # (M,P) uint8, best member first -> (P,)
    votes = np.zeros(num_classes, np.int32)
    for i in range(out.size):
        most, winner = 0, ballots[0, i]
        for m in range(ballots.shape[0]):
            votes[ballots[m, i]] += 1
        for m in range(ballots.shape[0]):  # the first member whose label has the most votes decides a tie
            if votes[ballots[m, i]] > most:
                most, winner = votes[ballots[m, i]], ballots[m, i]
        for m in range(ballots.shape[0]):
            votes[ballots[m, i]] = 0
        out[i] = winner


def vote_labels(q: Float, vote: Vote) -> Labels:
    """Probabilities (M,K,P) to labels (P,) uint8 by the vote's rule."""
    first: Labels = labels_by_vote(q, [vote])[0]
    return first


def labels_by_vote(q: Float, votes: Sequence[Vote]) -> Labels:
    """Probabilities (M,K,P) to labels (V,P) uint8, a row per vote; reads the probabilities once for all soft votes,
    and none of members that no vote uses."""
    num_members, num_classes, num_pixels = q.shape
    assert all(vote.weights.shape == (num_members, num_classes) for vote in votes)
    out = np.empty((len(votes), num_pixels), np.uint8)
    soft = [v for v, vote in enumerate(votes) if vote.kind == "soft"]
    if soft:
        weights = np.stack([votes[v].weights for v in soft])
        labels = out if len(soft) == len(votes) else np.empty((len(soft), num_pixels), np.uint8)
        _soft_labels(q, weights, labels)
        if labels is not out:
            out[soft] = labels
    for v, vote in enumerate(votes):
        if vote.kind == "geometric":
            for start in range(0, num_pixels, 64 * BLOCK):  # bounds the memory of the logarithms
                part = slice(start, start + 64 * BLOCK)
                out[v, part] = log_scores(q[:, :, part], vote.weights).argmax(0)
    for same_map in stacked_by_map(votes):
        _write_stacked(q, votes, same_map, out)
    hard = [v for v, vote in enumerate(votes) if vote.kind == "hard"]
    if hard:
        used = sorted({m for v in hard for m in votes[v].used})
        ballots = np.empty((len(used), num_pixels), np.uint8)
        _soft_labels(q, np.stack([single(num_members, num_classes, m) for m in used]), ballots)
        for v in hard:
            _majority(ballots[[used.index(m) for m in votes[v].used]], num_classes, out[v])
    return out


def stacked_by_map(votes: Sequence[Vote]) -> list[list[int]]:
    """The places of stacked votes, those that differ in strength and class weights alone together."""
    places = defaultdict(list)
    for v, vote in enumerate(votes):
        if vote.stacker is not None:
            places[(vote.stacker.map_key, *vote.used)].append(v)
    return list(places.values())


def _write_stacked(q: Float, votes: Sequence[Vote], places: Sequence[int], out: Labels) -> None:
    """Labels of stacked votes of one map, (V,P) at these places: its correction is worked out once."""
    used, first = votes[places[0]].used, votes[places[0]].stacker
    assert first is not None
    for start in range(0, q.shape[2], stacking.BLOCK):
        part = slice(start, start + stacking.BLOCK)
        mean, correction = first.scores(q[used, :, part])
        for v in places:
            vote = votes[v]
            assert vote.stacker is not None
            labels = np.empty((1, mean.shape[1]), np.uint8)
            joined = np.ascontiguousarray(vote.stacker.joined(mean, correction))[None]
            _soft_labels(joined, vote.weights[used[:1]][None], labels)
            out[v, part] = labels[0]


def stacked_scores(q: Float, vote: Vote) -> Float:
    """(M,K,P) -> (K,P): what a stacked vote compares."""
    assert vote.stacker is not None
    scores: Float = vote.weights[vote.used[0]][:, None] * vote.stacker.probabilities(q[vote.used])
    return scores


def log_scores(q: Float, weights: Float) -> Float:
    """(M,K,P), (M,K) -> (K,P): the weighted sums of log probabilities that a geometric vote compares."""
    scores = np.zeros(q.shape[1:], np.float32)
    for m in range(q.shape[0]):
        if (weights[m] != 0).any():
            scores += weights[m][:, None] * np.log(np.maximum(q[m], LEAST))
    return scores


def single(num_members: int, num_classes: int, member: int) -> Float:
    """Weights (M,K) of one member alone."""
    weights = np.zeros((num_members, num_classes), np.float32)
    weights[member] = 1
    return weights


def shrunk(weights: Float, plain: Float, share: float) -> Float:
    """(1 - share) of the fitted weights and `share` of the plainer rule's, both (M,K).

    The fitted ones are first scaled so that they sum to as much as the plain ones: a common factor changes no
    label, so without that the same share would mean more or less.
    """
    scaled = weights * (plain.sum() / max(float(weights.sum()), 1e-12))
    mixed: Float = ((1 - share) * scaled + share * plain).astype(np.float32)
    return mixed
