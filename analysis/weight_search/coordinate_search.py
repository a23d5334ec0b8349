"""Weights per member and class by exact coordinate search on mIoU.

From starting weights (M,K), three moves, each along a line whose mIoU is known at every point (`line_search`): one
weight W[m,k]; one class, all W[:,k] scaled; one member, all W[m,:] scaled. A move is taken only where a recount of the
pixels confirms that mIoU rises, so it never falls; no seed, no step size. While the search gains, lines are short
(FACTOR about where they begin) and searched to the edges of bins; the last sweep takes them whole and to the single
pixel, and proves the end. Then every weight goes to the middle of its plateau as the others left it, or to 0 where that
is as good. docs/weights.md derives it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from analysis.voting.votes import Float
from analysis.weight_search.line_search import (
    ABSENT,
    Counts,
    Events,
    WeightInterval,
    best_edge,
    best_plateau,
    flag_bins,
    hits_union,
    mean_iou,
)
from analysis.weight_search.pixels import Pixels, WeightBounds
from analysis.weight_search.soft_miou import ascend

Free = Literal["class", "member", "member_class"]
MAX_WEIGHT = 16.0  # where 1 is the weight of everybody at a uniform start
FACTOR = 2.0  # a short line's ends over where it begins; later as much as the class still moves, but within LIMITS
LIMITS = 1.1, 4.0
TRACE = np.float32(1e-3)
LEAST = 1 / 16  # a weight below it counts as this much there
SHORT_BINS = 128
COARSE_PIXELS = 16384  # that the smoothed mIoU needs
MIDDLE = 8  # of a large sample an eighth is climbed first: it costs an eighth, and of memory no more than the rest does
BOX = np.float32(1.25)  # how far other weights may move before the pixels of a whole line are looked up again


@dataclass(frozen=True)
class Fit:
    """`miou` is that of `confusion` (K,K), the counts of the whole sample under `weights` (M,K)."""

    weights: Float
    miou: float
    confusion: Counts
    num_sweeps: int
    converged: bool  # the last sweep, along whole lines, gained less than was asked for
    trace: list[float]  # mIoU where the climb on the whole sample began, and after every move that it took


def _miou(confusion: Counts) -> float:
    return float(mean_iou(*hits_union(confusion)))


def _turned(won: Counts, k: int, sign: int, hits: Counts, union: Counts) -> tuple[Counts, Counts]:
    """hits, union (K,) after the pixels won (K,3) go from their best other class to k (sign 1) or back (-1)."""
    hits, union = hits - sign * won[:, 0], union - sign * (won[:, 1] + won[:, 2])
    hits[k] += sign * won[:, 1].sum()
    union[k] += sign * (won[:, 0] + won[:, 2]).sum()
    return hits, union


class _Search:
    """Weights (M,K) and the counts hits and union (K,) under them; the pixels keep in step."""

    def __init__(self, pixels: Pixels, weights: Float, num_bins: int) -> None:
        self.pixels, self.num_bins = pixels, num_bins
        self.factors = np.full(weights.shape[1], FACTOR)
        self.centring = False  # an equal mIoU is enough: what moves is where in its plateau a weight lies
        self._restart(weights.astype(np.float32))
        self.trace = [self.miou]

    def _restart(self, weights: Float) -> None:
        self.weights = weights.copy()
        confusion = self.pixels.restart(weights)
        self.hits, self.union = hits_union(confusion)
        true = confusion.sum(1)
        self.present = np.flatnonzero(true)
        self.nothing_won: Counts = np.where(true > 0, true, ABSENT)  # the union where no class wins a pixel
        self.miou = float(mean_iou(self.hits, self.union))

    def _take(self, hits: Counts, union: Counts) -> bool:
        """Takes recounted counts where their mIoU is higher: rounding near a threshold can undo a predicted gain."""
        miou = float(mean_iou(hits, union))
        if not self._enough(miou):
            return False
        if miou > self.miou:
            self.trace.append(miou)
        self.hits, self.union, self.miou = hits, union, miou
        return True

    def _enough(self, miou: float) -> bool:
        return miou > self.miou or (self.centring and miou == self.miou)

    def _best(self, hist: Counts, hits: Counts, union: Counts, span: WeightInterval, whole: bool,
              events: Callable[[np.ndarray], Events]) -> float | None:  # fmt: skip
        """Where on a line mIoU is highest, if that is enough: in the middle of the plateau, or at 0 where centring
        finds that to be as good."""
        if not whole:
            value, weight = best_edge(hist, hits, union, span)
            return weight if value > self.miou else None
        flagged = flag_bins(hist, hits, union, np.nextafter(self.miou, 0) if self.centring else self.miou)
        if not flagged.any():
            return None
        plateau = best_plateau(hist, flagged, Events.merged([events(flagged)]), hits, union, span)
        if not self._enough(plateau.miou):
            return None
        return 0.0 if self.centring and plateau.low <= 0 else plateau.middle_weight

    def _open_line(self, member: int | None, column: Float, k: int, span: WeightInterval, whole: bool,
                   base: tuple[Counts, Counts], to: Callable[[float], Float]) -> Float:  # fmt: skip
        """One line through the open class. -> the column (M,) after it."""
        hist = self.pixels.histogram(member, column, span)
        x = self._best(hist, *base, span, whole, self.pixels.events)
        if x is None:
            return column
        trial = to(min(max(x, span.low), span.high))  # an edge's u is rounded
        if not trial.any() and (self.centring or not np.delete(self.weights, k, axis=1).any()):
            return column  # weights that are all 0 are no vote, and a class whose weights are is never predicted
        won = self.pixels.won_counts(trial)
        return trial if self._take(*_turned(won, k, 1, *base)) else column

    def _open(self, k: int, reach: WeightBounds) -> tuple[Counts, Counts]:
        """-> hits, union as if class k won nothing."""
        return _turned(self.pixels.open(k, reach), k, -1, self.hits, self.union)

    def _close(self, k: int, column: Float) -> None:
        if not np.array_equal(column, self.weights[:, k]):
            self.weights[:, k] = column
            self.pixels.commit(column)

    def scale_class(self, k: int, whole: bool) -> None:
        """Moves column k along itself."""
        column = self.weights[:, k].copy()
        if not column.any():
            return
        top, factor, none = MAX_WEIGHT / float(column.max()), self.factors[k], np.zeros_like(column)
        span = (
            WeightInterval(0, top, self.num_bins) if whole else WeightInterval(1 / factor, min(factor, top), SHORT_BINS)
        )
        ends = column * np.float32(span.low), column * np.float32(span.high)
        base = self._open(k, WeightBounds(*ends, none, none, column if whole else None))
        self._close(k, self._open_line(None, column, k, span, whole, base, lambda x: column * np.float32(x)))

    def move_weights(self, k: int, members: Sequence[int], whole: bool) -> None:
        """Moves each W[m,k] of `members` alone."""
        left, factor = list(members), BOX if whole else np.float32(self.factors[k])
        while left:
            column = self.weights[:, k].copy()
            far = np.maximum(column, np.float32(LEAST)) * factor
            high = np.maximum(np.minimum(far, np.float32(MAX_WEIGHT)), column)  # a start may lie beyond
            low = np.where(column > LEAST, column / factor, np.float32(0))
            none = np.zeros_like(column)
            drop, extra = (low, np.maximum(np.float32(MAX_WEIGHT) - high, 0)) if whole else (none, none)
            base = self._open(k, WeightBounds(low, high, drop, extra))
            while left and ((low <= column) & (column <= high)).all():
                m = left.pop(0)
                span = (
                    WeightInterval(0, MAX_WEIGHT, self.num_bins)
                    if whole
                    else WeightInterval(float(low[m]), float(high[m]), SHORT_BINS)
                )

                def put(x: float, m: int = m, column: Float = column) -> Float:
                    trial = column.copy()
                    trial[m] = x
                    return trial

                column = self._open_line(m, column, k, span, whole, base, put)
            self._close(k, column)

    def move_along(self, base: Float, step: Float, high: float, whole: bool) -> None:
        """Moves all weights (M,K) along base + x * step, x in [0, high)."""
        span = WeightInterval(0, high, self.num_bins)
        hist = self.pixels.line_histogram(base, step, span)
        counts = np.zeros_like(self.hits), self.nothing_won
        x = self._best(hist, *counts, span, whole, self.pixels.line_events)
        if x is None:
            return
        before, after = self.weights, base + np.float32(x) * step
        alive = after.any(0)  # (K,): as in `_open_line`
        if not (alive.all() if self.centring else alive.any()):
            return
        self.weights = after
        confusion = self.pixels.restart(self.weights)
        if not self._take(*hits_union(confusion)):
            self.weights = before
            self.pixels.restart(before)

    def move_member(self, m: int, uniform: bool, whole: bool) -> None:
        """Moves W[m,:] along itself; along ones where its weights are to stay equal (`uniform`) or are all zero."""
        row, base = self.weights[m].copy(), self.weights.copy()
        base[m] = 0
        step = np.zeros_like(base)
        step[m] = row if row.any() and not uniform else 1
        self.move_along(base, step, MAX_WEIGHT / float(step.max()), whole)

    def sweep(self, free: Free, whole: bool) -> None:
        """Every move that is free, once. Weights of classes that do not occur stay: whatever they win is an error here,
        and says nothing of where they do occur."""
        num_members = len(self.weights)
        before = np.maximum(self.weights, LEAST)
        for k in self.present.tolist():
            if free == "class" or (free == "member_class" and whole and num_members > 1):
                self.scale_class(k, whole)
            if free == "member_class":
                self.move_weights(k, range(num_members), whole)
        if num_members > 1 and (free == "member" or (free == "member_class" and whole)):
            for m in range(num_members):
                self.move_member(m, free == "member", whole)
        moved = np.abs(np.log(np.maximum(self.weights, LEAST) / before)).max(0)  # (K,)
        self.factors = np.clip(np.exp(1.5 * moved), *LIMITS)

    def centre(self, free: Free) -> None:
        """Moves every weight that is free, even where nothing is gained, to the middle of the widest stretch of its
        line that is as good as the best, so that pixels a little unlike those of the sample keep their labels; to 0,
        which saves an inference, where that is as good."""
        self.centring = True
        for k in self.present.tolist() if free != "member" else ():
            if free == "class":
                self.scale_class(k, whole=True)
            else:
                self.move_weights(k, range(len(self.weights)), whole=True)
        for m in range(len(self.weights)) if free == "member" else ():
            self.move_member(m, uniform=True, whole=True)
        self.centring = False


def fit_pixels(
    pixels: Pixels, starts: Sequence[Float], free: Free, *,
    max_sweeps: int = 50, min_gain: float = 1e-6, coarse_pixels: int = COARSE_PIXELS, num_bins: int = 512,
) -> Fit:  # fmt: skip
    """Weights (M,K) for the pixels, from the best of several starts, each (M,K).

    `free` says what may move: one factor per class, one weight per member, or one per member and class. From every
    start a smoothed mIoU is climbed by gradient on about `coarse_pixels` of the labelled pixels (`soft_miou`); from
    the best end the exact search climbs along short lines on an eighth of them, where that is more. Of the starts and
    all these ends, the best on the whole sample climbs on until a sweep along whole lines gains less than `min_gain`,
    or for `max_sweeps`. So the result is never worse than any start. Raises ValueError where no pixel has a label.
    """
    num = pixels.num_labelled()
    if not num:
        raise ValueError("weights need labelled pixels, got none (all 255); give a larger sample or another split")
    candidates = [start.astype(np.float32) for start in starts]
    coarse = pixels.every(max(1, num // coarse_pixels))
    candidates += [ascend(*coarse[:2], start, free, MAX_WEIGHT, coarse[2]) for start in candidates]
    del coarse
    if num >= 2 * MIDDLE * coarse_pixels:
        middle = Pixels(*pixels.every(MIDDLE))
        few = _Search(middle, _best(middle, candidates), num_bins)
        _climb(few, free, max_sweeps, 10 * min_gain, prove=False)
        candidates.append(few.weights)
        del middle, few
    search = _Search(pixels, _best(pixels, candidates), num_bins)
    num_sweeps, converged = _climb(search, free, max_sweeps, min_gain)
    search.centre(free)
    counts = pixels.confusion(search.weights)
    assert _miou(counts) == search.miou, "the counts that were kept in step differ from a recount"
    weights = _without_traces(search.weights)
    fewer = pixels.confusion(weights)
    if _miou(fewer) < search.miou:
        weights, fewer = search.weights, counts
    return Fit(weights, _miou(fewer), fewer, num_sweeps, converged, search.trace)


def _without_traces(weights: Float) -> Float:
    """Weights (M,K) with those that are a thousandth of their class's largest at 0: a member that costs an inference
    and decides next to nothing."""
    return np.where(weights < TRACE * weights.max(0), np.float32(0), weights)


def _best(pixels: Pixels, candidates: Sequence[Float]) -> Float:
    """The weights with the highest mIoU; the first of equals."""
    return candidates[int(np.argmax([_miou(pixels.confusion(weights)) for weights in candidates]))]


def _climb(search: _Search, free: Free, max_sweeps: int, min_gain: float, *, prove: bool = True) -> tuple[int, bool]:
    """-> sweeps made, and whether the last one gained less than `min_gain`; along whole lines, if it is to `prove`
    the end."""
    whole = False
    for num_sweeps in range(1, max_sweeps + 1):
        before = search.miou
        search.sweep(free, whole)
        stalled = search.miou - before < min_gain
        if stalled and (whole or not prove):
            return num_sweeps, True
        whole = not whole and stalled
    return max_sweeps, False
