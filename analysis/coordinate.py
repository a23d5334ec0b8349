"""Weights a member and class by exact coordinate search on mIoU (DESIGN.md, "Per-class weights, exactly").

Enters: a sample's probabilities (M,K,P) float32 and labels (P,) uint8 (255: ignored), starting weights (M,K).
Leaves: weights (M,K) and the counts (K,K) of the sample under them, true to the last pixel. Three moves, each along
a line whose mIoU is known at every point (`linesearch`): one weight W[m,k]; one class, all W[:,k] scaled; one
member, all W[m,:] scaled. A move is taken only where a recount of the pixels confirms that mIoU rises, so it never
falls; no seed, no step size. A smoothed mIoU (`smooth`) finds where to begin.

Memory beside the sample: ten bytes a pixel, and for one class at a time 4 M + 10 bytes for each pixel that some weight
in [0, MAX_WEIGHT] can flip.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from analysis.linesearch import Counts, Events, Plateau, best_plateau, flag_bins, mean_iou, num_events
from analysis.smooth import ascend
from analysis.thresholds import count_events, member_events, scores_of, turn, weight_bins, weight_events, wins
from analysis.toptwo import contested, gather, rescore, settle, top_two
from analysis.voting import Float, Labels, sample_confusion
from trainables.metrics import confusion

Free = Literal["class", "member", "member_class"]
MAX_WEIGHT = 16.0  # where 1 is the weight of everybody at a uniform start
COARSE_BINS = 128  # a line's fixed cost grows with them, that of its pixels falls


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
    """Weights and everything that is kept in step with them: each pixel's two highest scores, hits and union (K,)."""

    def __init__(self, q: Float, truth: Labels, weights: Float, num_bins: int) -> None:
        self.q, self.truth, self.num_bins = q, truth, num_bins
        num_members, num_classes, num_pixels = q.shape
        self.best, self.second = np.empty(num_pixels, np.float32), np.empty(num_pixels, np.float32)
        self.who, self.runner = np.empty(num_pixels, np.uint8), np.empty(num_pixels, np.uint8)
        # only as much of these is ever touched, and so held, as pixels are contested at once
        self.rival, self.memory = np.empty(num_pixels, np.float32), np.empty(num_members * num_pixels, np.float32)
        self.index = np.empty(num_pixels, np.int32 if num_pixels < 2**31 else np.int64)
        self.bins = np.empty(num_pixels, np.uint16)
        self.per_class = np.bincount(truth, minlength=256)[:num_classes].astype(np.int64)
        self.restart(weights)

    def restart(self, weights: Float) -> None:
        self.weights = weights.astype(np.float32).copy()
        self.hits, self.union = self._recount()
        self.miou = float(mean_iou(self.hits, self.union))
        self.trace = [self.miou]

    def _recount(self) -> tuple[Counts, Counts]:
        top_two(self.q, self.weights, *self._state)
        return _hits_union(confusion(self.truth, self.who, self.q.shape[1]))

    @property
    def _state(self) -> tuple[Float, Float, Labels, Labels]:
        return self.best, self.second, self.who, self.runner

    def _contested(self, k: int) -> tuple[Counts, Float, Float, Float]:
        """Of the n pixels that class k can win: where each kind starts (3K+1,), the best other scores (n,), memory
        for k's own (n,), and k's probabilities (M,1,n)."""
        settle(self.q, self.weights, k, self.second, self.who, self.runner)
        starts = np.empty(3 * self.q.shape[1] + 1, np.int64)
        cap = np.float32(MAX_WEIGHT * (1 + 1e-4))
        contested(self.q, self.truth, self._state, k, cap, self.index, self.bins, starts)
        num, num_members = int(starts[-1]), self.q.shape[0]
        rival, q = self.rival[:num], self.memory[: num_members * num].reshape(num_members, 1, num)
        gather(self.q, self._state, k, self.index[:num], self.bins, starts, rival, q)
        score = self.index[:num].view(np.float32) if self.index.itemsize == 4 else np.empty(num, np.float32)
        return starts, rival, score, q

    def class_moves(self, k: int, scale_class: bool, members: Sequence[int]) -> None:
        """Scales column k as a whole, then moves each W[m,k] alone. The best other score stays the same
        throughout."""
        starts, rival, score, q = self._contested(k)
        column = self.weights[:, k : k + 1].copy()  # (M,1)
        won = np.empty(3 * self.q.shape[1], np.int64)
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
            rescore(self.q, self.weights, k, *self._state)

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
        line = self.q, self.weights, m, along, np.float32(w), np.float32(top), self.truth
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
        if not self._take(*self._recount()):
            self.weights[m] = row
            top_two(self.q, self.weights, *self._state)

    def _take(self, hits: Counts, union: Counts) -> bool:
        """Takes the recounted state where its mIoU is higher: rounding near a threshold can undo a predicted
        gain."""
        miou = float(mean_iou(hits, union))
        if miou <= self.miou:
            return False
        self.hits, self.union, self.miou = hits, union, miou
        self.trace.append(miou)
        return True

    def sweep(self, free: Free, stalled: float = 0.0) -> None:
        """Every move that is free, once. A member's line costs as much as all lines of two classes: where weights
        move alone too, only once these gain less than `stalled`."""
        num_members, num_classes = self.weights.shape
        before = self.miou
        if free != "member":
            alone = num_members == 1
            members = range(num_members) if free == "member_class" else range(0)
            for k in range(num_classes):
                self.class_moves(k, free == "class" or not alone, members)
        if free != "class" and num_members > 1 and (free == "member" or self.miou - before <= stalled):
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
    coarse_pixels: int = 16384,
    num_bins: int = 512,
) -> Fit:
    """Weights (M,K) for probabilities q (M,K,P) and labels truth (P,), from the best of several starts, each (M,K).

    `free` says what may move: one factor a class, one weight a member, or one a member and class. Every start first
    climbs on a part of a large sample (every n-th labelled pixel, about `coarse_pixels` of them): a smoothed mIoU by
    gradient (`smooth`), then the exact search. Of the starts and all these ends, the best on the whole sample climbs
    on until a sweep gains less than `min_gain`, or for `max_sweeps`. So the result is never worse than any start.
    Raises ValueError where no pixel has a label.
    """
    labelled = np.flatnonzero(truth != 255)
    if not labelled.size:
        raise ValueError("weights need labelled pixels, got none (all 255); give a larger sample or another split")
    candidates = [start.astype(np.float32) for start in starts]
    candidates += _coarse_ends(q, truth, labelled, candidates, free, max_sweeps, min_gain, coarse_pixels)
    scores = [float(mean_iou(*_hits_union(sample_confusion(q, weights, truth)))) for weights in candidates]
    search = _Search(q, truth, candidates[int(np.argmax(scores))], num_bins)
    num_sweeps, converged = _climb(search, free, max_sweeps, min_gain)
    counts = sample_confusion(q, search.weights, truth)
    miou = float(mean_iou(*_hits_union(counts)))
    assert miou == search.miou, "the counts that were kept in step differ from a recount"
    return Fit(search.weights, miou, counts, num_sweeps, converged, search.trace)


def _coarse_ends(
    q: Float, truth: Labels, labelled: NDArray[np.int64], starts: Sequence[Float], free: Free,
    max_sweeps: int, min_gain: float, coarse_pixels: int,
) -> list[Float]:  # fmt: skip
    """Where the smoothed ascents end on a part of the labelled pixels, and where the exact climb from the best of
    these ends and the starts does."""
    part = labelled[:: max(1, labelled.size // coarse_pixels)]
    few, labels = np.ascontiguousarray(q[:, :, part]), truth[part]
    smooth = [ascend(few, labels, start, free, MAX_WEIGHT) for start in starts]
    scores = [float(mean_iou(*_hits_union(sample_confusion(few, w, labels)))) for w in [*smooth, *starts]]
    coarse = _Search(few, labels, [*smooth, *starts][int(np.argmax(scores))], COARSE_BINS)
    _climb(coarse, free, max_sweeps, min_gain)
    return [*smooth, coarse.weights]


def _climb(search: _Search, free: Free, max_sweeps: int, min_gain: float) -> tuple[int, bool]:
    """-> sweeps made, and whether the last one gained less than `min_gain`."""
    for num_sweeps in range(1, max_sweeps + 1):
        before = search.miou
        search.sweep(free, stalled=min_gain)
        if search.miou - before < min_gain:
            return num_sweeps, True
    return max_sweeps, False
