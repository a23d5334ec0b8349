"""One line through weight space: the mIoU at every point of it, and the middle of the best plateau.

Och's line search for machine translation (2003, section 4), carried over to mIoU. Along a line each pixel changes its
label at a few points, its events. Input are the counts at the line's start, (B+1,K,4) histograms of the events over
u = w/(1+w) in [0, 1), and the sorted events of those bins that can hold the optimum. Histograms add and events
concatenate, so it does not matter where their pixels lie.

Counts are kept as hits (true positives) and union per class, so an event changes one of four things: its old class
loses a hit (0) or a false positive (1), its new class gains a hit (2) or a false positive (3). A class that does not
occur in the truth has the union ABSENT, so far below 0 that no false positive gives it a part in the mean. Row 0 of a
histogram
holds what differs already at the start; row b > 0 holds the events with int((u - low) * scale) + 1 == b.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numba
import numpy as np
from numpy.typing import NDArray

from analysis.voting.votes import Labels

Counts = NDArray[np.int64]
ABSENT = -(2**60)
SLIVER = np.float32(2.0**-21)  # of u: eight steps of float32 below 1
LOSE_HIT, LOSE_FALSE, GAIN_HIT, GAIN_FALSE = 0, 1, 2, 3


@dataclass(frozen=True)
class WeightInterval:
    """The stretch of a line that is searched: weights from `low` up to `high`, its u cut into `num_bins` bins."""

    low: float
    high: float
    num_bins: int

    @property
    def ends_u(self) -> tuple[np.float32, np.float32]:
        return np.float32(self.low / (1 + self.low)), np.float32(self.high / (1 + self.high))

    @property
    def scale(self) -> np.float32:
        low, high = self.ends_u
        return np.float32(self.num_bins / max(float(high) - float(low), 1e-30))

    def histogram(self, num_classes: int) -> Counts:
        return np.zeros((self.num_bins + 1, num_classes, 4), np.int64)


@dataclass(frozen=True)
class Events:
    """Events of the flagged bins: at `u` a pixel, which counts `weight` times, goes from class `old` to class `new`;
    `truth` is its label. All (E,)."""

    u: NDArray[np.float32]
    old: NDArray[np.uint8]
    new: NDArray[np.uint8]
    truth: NDArray[np.uint8]
    weight: NDArray[np.int32]

    @property
    def columns(self) -> tuple[NDArray[np.float32], Labels, Labels, Labels, NDArray[np.int32]]:
        return self.u, self.old, self.new, self.truth, self.weight

    def where(self, mask: NDArray[np.bool_] | NDArray[np.intp]) -> Events:
        return Events(self.u[mask], self.old[mask], self.new[mask], self.truth[mask], self.weight[mask])

    def first(self, num: int) -> Events:
        return Events(self.u[:num], self.old[:num], self.new[:num], self.truth[:num], self.weight[:num])

    @staticmethod
    def merged(events: Sequence[Events]) -> Events:
        """All of them, sorted by u."""
        whole = Events(*(np.concatenate(column) for column in zip(*(e.columns for e in events), strict=True)))
        return whole.where(np.argsort(whole.u, kind="stable"))


@dataclass(frozen=True)
class Plateau:
    """The best mIoU on a line and the widest stretch of u = w/(1+w) that has it."""

    miou: float
    low: float
    high: float

    @property
    def middle_weight(self) -> float:
        middle = 0.5 * (self.low + self.high)
        return middle / (1.0 - middle)


def hits_union(confusion: Counts) -> tuple[Counts, Counts]:
    """Counts (K,K) [true, predicted] to hits and union (K,)."""
    hits, true = np.diagonal(confusion).copy(), confusion.sum(1)
    return hits, np.where(true > 0, confusion.sum(0) + true - hits, ABSENT)


@numba.njit(cache=True, nogil=True, error_model="numpy", fastmath=False)
def mean_iou(hits, union):  # type: ignore[no-untyped-def] # (K,), (K,) int64 -> float; 0 where no class occurs
    total, present = 0.0, 0
    for k in range(hits.size):
        if union[k] > 0:
            total += hits[k] / union[k]
            present += 1
    return total / max(present, 1)


@numba.njit(cache=True, nogil=True, error_model="numpy", fastmath=False)
def row_of(u, low_u, scale, last):  # type: ignore[no-untyped-def] # a histogram's row, for u in [low_u, end of the last bin)
    return min(np.int32((u - low_u) * scale) + np.int32(1), np.int32(last))


@numba.njit(cache=True, nogil=True, error_model="numpy", fastmath=False)
def _apply(hits, union, ratio, counts):  # type: ignore[no-untyped-def] # (K,) x2, (K,) float64, (K,4); in place
    touched = False
    for k in range(hits.size):
        lose_hit, lose_false, gain_hit, gain_false = counts[k, 0], counts[k, 1], counts[k, 2], counts[k, 3]
        if lose_hit | lose_false | gain_hit | gain_false:
            hits[k] += gain_hit - lose_hit
            union[k] += gain_false - lose_false
            ratio[k] = hits[k] / union[k] if union[k] > 0 else -1.0
            touched = True
    return touched


@numba.njit(cache=True, nogil=True, error_model="numpy", fastmath=False)
def _mean(ratio):  # type: ignore[no-untyped-def] # (K,), -1 for an absent class
    total, present = 0.0, 0
    for k in range(ratio.size):
        if ratio[k] >= 0:
            total += ratio[k]
            present += 1
    return total / max(present, 1)


@numba.njit(cache=True, nogil=True, error_model="numpy", fastmath=False)
def _bound(hits, union, ratio, counts):  # type: ignore[no-untyped-def] # no order of a bin's events gives more than this
    total, present = 0.0, 0
    for k in range(hits.size):
        if union[k] > 0 and counts[k, 0] | counts[k, 1] | counts[k, 2] | counts[k, 3]:
            least = union[k] - counts[k, 1]
            most = hits[k] + counts[k, 2]
            total += most / least if least > most else 1.0
            present += 1
        elif ratio[k] >= 0:
            total += ratio[k]
            present += 1
    return total / max(present, 1)


@numba.njit(cache=True, nogil=True, error_model="numpy", fastmath=False)
def _edges(hist, hits, union):  # type: ignore[no-untyped-def] # -> best mIoU at a bin's end, that bin, (B+1,) bound inside each
    num_bins = hist.shape[0] - 1
    hits, union = hits.copy(), union.copy()
    ratio = np.empty(hits.size, np.float64)
    for k in range(hits.size):
        ratio[k] = hits[k] / union[k] if union[k] > 0 else -1.0
    _apply(hits, union, ratio, hist[0])
    best, where = _mean(ratio), 0
    bound = np.full(num_bins + 1, -1.0)
    for b in range(1, num_bins + 1):
        inside = _bound(hits, union, ratio, hist[b])
        if _apply(hits, union, ratio, hist[b]):
            bound[b] = inside
            value = _mean(ratio)
            if value > best:
                best, where = value, b
    return best, where, bound


@numba.njit(cache=True, nogil=True, error_model="numpy", fastmath=False)
def _walk(hist, flagged, u, old, new, truth, weight, hits, union, low_u, end_u, scale):  # type: ignore[no-untyped-def]
    """Exact mIoU between all events of the flagged bins, and at the edges of the others; ties go to the wider
    plateau."""
    hits, union = hits.copy(), union.copy()
    ratio = np.empty(hits.size, np.float64)
    for k in range(hits.size):
        ratio[k] = hits[k] / union[k] if union[k] > 0 else -1.0
    _apply(hits, union, ratio, hist[0])
    last = hist.shape[0] - 1
    step = (np.float64(end_u) - np.float64(low_u)) / last
    value, start = _mean(ratio), np.float64(low_u)
    best, low, high = -1.0, 0.0, 0.0
    i = 0
    for b in range(1, last + 1):
        if not flagged[b]:
            edge = low_u + (b - 1) * step  # the bin's first event lies here or later
            if _apply(hits, union, ratio, hist[b]):
                if value > best or (value == best and edge - start > high - low):
                    best, low, high = value, start, edge
                value, start = _mean(ratio), low_u + b * step
            continue
        while i < u.size and row_of(u[i], low_u, scale, last) == b:
            here = u[i]
            # one point of the line: what lies between events that rounding alone keeps apart cannot be reached, and a
            # sliver there that looks best would hide the plateau that is
            while i < u.size and u[i] - here <= SLIVER:
                j, k, num = old[i], new[i], weight[i]
                if truth[i] == j:
                    hits[j] -= num
                else:
                    union[j] -= num
                if truth[i] == k:
                    hits[k] += num
                else:
                    union[k] += num
                ratio[j] = hits[j] / union[j] if union[j] > 0 else -1.0
                ratio[k] = hits[k] / union[k] if union[k] > 0 else -1.0
                i += 1
            after = _mean(ratio)
            if after != value:
                if value > best or (value == best and here - start > high - low):
                    best, low, high = value, start, np.float64(here)
                value, start = after, np.float64(here)
    if value > best or (value == best and end_u - start > high - low):
        best, low, high = value, start, np.float64(end_u)
    return best, low, high, i


def best_edge(hist: Counts, hits: Counts, union: Counts, span: WeightInterval) -> tuple[float, float]:
    """The highest mIoU at an edge between bins, and the weight there: no more than the histogram is needed.

    `hits`, `union` (K,) are the counts before row 0 of `hist` (B+1,K,4) is applied.
    """
    best, where, _ = _edges(hist, hits, union)
    low, high = (float(u) for u in span.ends_u)
    u = low + (high - low) * where / span.num_bins
    return float(best), u / (1 - u)


def flag_bins(hist: Counts, hits: Counts, union: Counts, least: float) -> NDArray[np.bool_]:
    """(B+1,) bins that can hold the optimum, or an end of its plateau: their bound reaches the best edge and `least`.
    All False where nothing on the line exceeds `least`."""
    best, _, bound = _edges(hist, hits, union)
    if max(best, bound.max()) <= least:
        return np.zeros(bound.size, np.bool_)
    flagged: NDArray[np.bool_] = bound >= max(best, least) - 1e-12
    return flagged


def best_plateau(
    hist: Counts, flagged: NDArray[np.bool_], events: Events, hits: Counts, union: Counts, span: WeightInterval
) -> Plateau:
    """The maximum of mIoU over the span, exact: what is not flagged cannot hold it. `events` are those of the flagged
    bins, sorted by u; `hits`, `union` as in `best_edge`."""
    best, low, high, seen = _walk(hist, flagged, *events.columns, hits, union, *span.ends_u, span.scale)
    assert seen == events.u.size, "events outside the flagged bins"
    return Plateau(float(best), float(low), float(high))
