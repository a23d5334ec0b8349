"""Weights a member and class by exact coordinate search on mIoU (DESIGN.md, "Per-class weights, exactly").

Enters: a sample's probabilities (M,K,P) float32 and labels (P,) uint8 (255: ignored), starting weights (M,K).
Leaves: weights (M,K) and the counts (K,K) of the sample under them, true to the last pixel. Three moves, each along
a line whose mIoU is known at every point (`linesearch`): one weight W[m,k]; one class, all W[:,k] scaled; one
member, all W[m,:] scaled. A move is taken only where a recount of the pixels confirms that mIoU rises, so it never
falls; no seed, no step size.

Memory beside the sample: scores (K,P), and for one class at a time the pixels that some weight in [0, MAX_WEIGHT]
can flip.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from analysis.linesearch import Counts, Events, Plateau, best_plateau, flag_bins, mean_iou, num_events
from analysis.thresholds import (
    contested,
    count_events,
    gather,
    member_events,
    scores_of,
    sort_by_kind,
    turn,
    weight_bins,
    weight_events,
    wins,
)
from analysis.voting import Float, Labels, sample_confusion

Free = Literal["class", "member", "member_class"]
MAX_WEIGHT = 16.0  # where 1 is the weight of everybody at a uniform start


@dataclass(frozen=True)
class Fit:
    """`miou` is that of `confusion` (K,K), the counts of the whole sample under `weights` (M,K)."""

    weights: Float
    miou: float
    confusion: NDArray[np.int64]
    num_sweeps: int
    converged: bool  # the last sweep gained less than was asked for
    trace: list[float]  # mIoU where the climb on the whole sample began, and after every move that it took


def _to_u(weight: float) -> float:
    return weight / (1.0 + weight)


def _hits_union(confusion: NDArray[np.int64]) -> tuple[Counts, Counts]:
    hits = np.diagonal(confusion).copy()
    return hits, confusion.sum(0) + confusion.sum(1) - hits


class _Search:
    """Weights and everything that is kept in step with them: scores (K,P), hits and union (K,)."""

    def __init__(self, q: Float, truth: Labels, weights: Float, num_bins: int) -> None:
        self.q, self.truth, self.num_bins = q, truth, num_bins
        num_classes, num_pixels = q.shape[1:]
        self.scores = np.empty((num_classes, num_pixels), np.float32)
        self.index = np.empty(num_pixels, np.int32 if num_pixels < 2**31 else np.int64)
        self.rival = np.empty(num_pixels, np.float32)
        self.kind = np.empty(num_pixels, np.uint16)
        self.bins = np.empty(num_pixels, np.uint16)
        self.per_class = np.bincount(truth, minlength=256)[:num_classes].astype(np.int64)
        self.restart(weights)

    def restart(self, weights: Float) -> None:
        self.weights = weights.astype(np.float32).copy()
        self._rescore(range(self.q.shape[1]))
        self.hits, self.union = _hits_union(sample_confusion(self.q, self.weights, self.truth))
        self.miou = float(mean_iou(self.hits, self.union))
        self.trace = [self.miou]

    def _rescore(self, classes: Sequence[int]) -> None:
        for k in classes:
            scores_of(self.q, self.weights, k, self.scores[k])

    def class_moves(self, k: int, scale_class: bool, members: Sequence[int]) -> None:
        """Scales column k as a whole, then moves each W[m,k] alone. The best other score stays the same
        throughout."""
        cap = np.float32(MAX_WEIGHT * (1 + 1e-4))
        num = contested(self.scores, self.q, self.truth, k, cap, self.index, self.rival, self.kind)
        index, rival = np.empty(num, self.index.dtype), np.empty(num, np.float32)
        starts = np.empty(3 * self.q.shape[1] + 1, np.int64)
        sort_by_kind(self.index[:num], self.rival[:num], self.kind[:num], starts, index, rival)
        q = np.empty((self.q.shape[0], 1, num), np.float32)
        gather(self.q, k, index, q)
        column = self.weights[:, k : k + 1].copy()  # (M,1)
        score, won = np.empty(num, np.float32), np.empty(3 * self.q.shape[1], np.int64)
        scores_of(q, column, 0, score)
        wins(score, rival, starts, k, won)
        hits, union = self.hits.copy(), self.union.copy()
        turn(won, k, -1, hits, union)  # as if k won nothing

        def move(values: Float, w: float, top: float, to: Callable[[float], Float]) -> None:
            nonlocal column
            plateau = self._weight_line(values, score, rival, starts, w, top, k, hits, union)
            if plateau.miou <= self.miou:
                return
            trial = to(plateau.middle_weight)
            scores_of(q, trial, 0, score)
            wins(score, rival, starts, k, won)
            new_hits, new_union = hits.copy(), union.copy()
            turn(won, k, 1, new_hits, new_union)
            if self._take(new_hits, new_union):
                column = trial
            else:
                scores_of(q, column, 0, score)

        if scale_class and column.max() > 0:
            base = column
            move(score.copy(), 1.0, MAX_WEIGHT / float(base.max()), lambda x: base * np.float32(x))
        for m in members:
            base = column

            def put(x: float, m: int = m, base: Float = base) -> Float:
                trial = base.copy()
                trial[m] = x
                return trial

            move(q[m, 0], float(base[m, 0]), MAX_WEIGHT, put)
        if not np.array_equal(column, self.weights[:, k : k + 1]):
            self.weights[:, k : k + 1] = column
            self._rescore([k])

    def _weight_line(
        self, values: Float, score: Float, rival: Float, starts: Counts, w: float, top: float, k: int,
        hits: Counts, union: Counts,
    ) -> Plateau:  # fmt: skip
        """The line of one weight. All pixels once for the histogram; again only those whose bin may hold the
        optimum."""
        end = _to_u(top)
        hist = np.zeros((self.num_bins + 1, self.q.shape[1], 4), np.int32)
        bins = self.bins[: values.size]
        w32 = np.float32(w)
        scale = np.float32(self.num_bins / end)
        weight_bins(values, score, rival, starts, w32, np.float32(top), k, scale, bins, hist)
        flagged = flag_bins(hist, hits, union)
        events = Events.empty(num_events(hist, flagged))
        if events.u.size:
            out = events.u, events.old, events.new, events.truth
            weight_events(bins, np.append(flagged, False), values, score, rival, starts, w32, k, *out)
        return best_plateau(hist, flagged, events.sorted(), hits, union, end)

    def _member_line(self, m: int, along: Float, w: float, top: float) -> Plateau:
        """The line of one member's weights."""
        end = _to_u(top)
        hist = np.zeros((self.num_bins + 1, along.size, 4), np.int32)
        line = self.scores, self.q[m], along, np.float32(w), np.float32(top), self.truth
        events = Events(*member_events(*line, hist[0]))
        bins = np.empty(events.u.size, np.uint16)
        scale = np.float32(self.num_bins / end)
        count_events(events.u, events.old, events.new, events.truth, scale, hist, bins)
        none = np.zeros_like(self.hits)
        flagged = flag_bins(hist, none, self.per_class)
        near = events.where(flagged[bins]).sorted()
        return best_plateau(hist, flagged, near, none, self.per_class, end)

    def member_move(self, m: int, uniform: bool) -> None:
        """Moves W[m,:] along itself; along ones where its weights are to stay equal (`uniform`) or are all zero."""
        row = self.weights[m].copy()
        along, w = (row, 1.0) if row.any() and not uniform else (np.ones_like(row), float(row[0]))
        plateau = self._member_line(m, along, w, MAX_WEIGHT / float(along.max()))
        if plateau.miou <= self.miou:
            return
        self.weights[m] = along * np.float32(plateau.middle_weight)
        if self._take(*_hits_union(sample_confusion(self.q, self.weights, self.truth))):
            self._rescore(range(row.size))
        else:
            self.weights[m] = row

    def _take(self, hits: Counts, union: Counts) -> bool:
        """Takes the recounted state where its mIoU is higher: rounding near a threshold can undo a predicted
        gain."""
        miou = float(mean_iou(hits, union))
        if miou <= self.miou:
            return False
        self.hits, self.union, self.miou = hits, union, miou
        self.trace.append(miou)
        return True

    def sweep(self, free: Free) -> None:
        num_members, num_classes = self.weights.shape
        if free != "member":
            alone = num_members == 1
            members = range(num_members) if free == "member_class" else range(0)
            for k in range(num_classes):
                self.class_moves(k, free == "class" or not alone, members)
        if free != "class" and num_members > 1:
            for m in range(num_members):
                self.member_move(m, uniform=free == "member")


def fit_weights(
    q: Float,
    truth: Labels,
    starts: Sequence[Float],
    free: Free,
    *,
    max_sweeps: int = 50,
    min_gain: float = 1e-6,
    coarse_pixels: int = 32768,
    num_bins: int = 1024,
) -> Fit:
    """Weights (M,K) for probabilities q (M,K,P) and labels truth (P,), from the best of several starts, each (M,K).

    `free` says what may move: one factor a class, one weight a member, or one a member and class. Every start first
    climbs on a part of a large sample (every n-th labelled pixel, about `coarse_pixels` of them); of the starts and
    the ends of these climbs, the best on the whole sample climbs on until a sweep gains less than `min_gain`, or
    for `max_sweeps`. So the result is never worse than any start. Raises ValueError where no pixel has a label.
    """
    labelled = np.flatnonzero(truth != 255)
    if not labelled.size:
        raise ValueError("weights need labelled pixels, got none (all 255); give a larger sample or another split")
    candidates = [start.astype(np.float32) for start in starts]
    if len(starts) > 1 or labelled.size >= 2 * coarse_pixels:
        part = labelled[:: max(1, labelled.size // coarse_pixels)]
        coarse = _Search(np.ascontiguousarray(q[:, :, part]), truth[part], starts[0], num_bins)
        for start in starts:
            coarse.restart(start)
            _climb(coarse, free, max_sweeps, min_gain)
            candidates.append(coarse.weights.copy())
        del coarse
    scores = [float(mean_iou(*_hits_union(sample_confusion(q, weights, truth)))) for weights in candidates]
    search = _Search(q, truth, candidates[int(np.argmax(scores))], num_bins)
    num_sweeps, converged = _climb(search, free, max_sweeps, min_gain)
    confusion = sample_confusion(q, search.weights, truth)
    miou = float(mean_iou(*_hits_union(confusion)))
    assert miou == search.miou, "the counts that were kept in step differ from a recount"
    return Fit(search.weights, miou, confusion, num_sweeps, converged, search.trace)


def _climb(search: _Search, free: Free, max_sweeps: int, min_gain: float) -> tuple[int, bool]:
    """-> sweeps made, and whether the last one gained less than `min_gain`."""
    for num_sweeps in range(1, max_sweeps + 1):
        before = search.miou
        search.sweep(free)
        if search.miou - before < min_gain:
            return num_sweeps, True
    return max_sweeps, False
