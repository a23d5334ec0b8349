"""One line through weight space: the mIoU at EVERY point of it, and the middle of the best plateau.

Och's line search for machine translation (2003, section 4), carried over to mIoU. Along a line each pixel changes
its label at a few points, its events. Enters: the counts at the line's start, (B+1,K,4) histograms of the events
over u = w/(1+w) in [0, 1), and the sorted events of those bins that can hold the optimum. Leaves: the best mIoU and
its widest plateau.

Counts are kept as hits (true positives) and union a class, so an event changes one of four things: its old class
loses a hit (0) or a false positive (1), its new class gains a hit (2) or a false positive (3). Row 0 of a histogram
holds what differs already at the start; row b > 0 holds the events with int(u * scale) + 1 == b.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.int64]
Histogram = NDArray[np.int32]
LOSE_HIT, LOSE_FALSE, GAIN_HIT, GAIN_FALSE = 0, 1, 2, 3


@dataclass(frozen=True)
class Events:
    """Events of the flagged bins: at `u` a pixel goes from class `old` to class `new`; `truth` is its label. All
    (E,)."""

    u: NDArray[np.float32]
    old: NDArray[np.uint8]
    new: NDArray[np.uint8]
    truth: NDArray[np.uint8]

    @staticmethod
    def empty(num: int) -> Events:
        return Events(np.empty(num, np.float32), *(np.empty(num, np.uint8) for _ in range(3)))

    def where(self, mask: NDArray[np.bool_]) -> Events:
        return Events(self.u[mask], self.old[mask], self.new[mask], self.truth[mask])

    def sorted(self) -> Events:
        order = np.argsort(self.u, kind="stable")
        return Events(self.u[order], self.old[order], self.new[order], self.truth[order])


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


@numba.njit(cache=True, nogil=True, error_model="numpy")
def mean_iou(hits, union):  # type: ignore[no-untyped-def] # (K,), (K,) int64 -> float; 0 where no class occurs
    total, present = 0.0, 0
    for k in range(hits.size):
        if union[k] > 0:
            total += hits[k] / union[k]
            present += 1
    return total / max(present, 1)


@numba.njit(cache=True, nogil=True, error_model="numpy")
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


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _mean(ratio):  # type: ignore[no-untyped-def] # (K,), -1 for an absent class
    total, present = 0.0, 0
    for k in range(ratio.size):
        if ratio[k] >= 0:
            total += ratio[k]
            present += 1
    return total / max(present, 1)


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _bound(hits, union, ratio, counts):  # type: ignore[no-untyped-def] # no order of a bin's events gives more than this
    total, present = 0.0, 0
    for k in range(hits.size):
        if counts[k, 0] | counts[k, 1] | counts[k, 2] | counts[k, 3]:
            least = union[k] - counts[k, 1]
            most = hits[k] + counts[k, 2]
            total += most / least if least > most else 1.0
            present += 1
        elif ratio[k] >= 0:
            total += ratio[k]
            present += 1
    return total / max(present, 1)


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _edges(hist, hits, union):  # type: ignore[no-untyped-def] # -> best mIoU at a bin's edge, (B+1,) bound inside each bin
    num_bins = hist.shape[0] - 1
    hits, union = hits.copy(), union.copy()
    ratio = np.empty(hits.size, np.float64)
    for k in range(hits.size):
        ratio[k] = hits[k] / union[k] if union[k] > 0 else -1.0
    _apply(hits, union, ratio, hist[0])
    best = _mean(ratio)
    bound = np.full(num_bins + 1, -1.0)
    for b in range(1, num_bins + 1):
        inside = _bound(hits, union, ratio, hist[b])
        if _apply(hits, union, ratio, hist[b]):
            bound[b] = inside
            best = max(best, _mean(ratio))
    return best, bound


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _walk(hist, flagged, u, old, new, truth, hits, union, end):  # type: ignore[no-untyped-def]
    """Exact mIoU between all events of the flagged bins, and at the edges of the others; ties go to the wider
    plateau."""
    hits, union = hits.copy(), union.copy()
    ratio = np.empty(hits.size, np.float64)
    for k in range(hits.size):
        ratio[k] = hits[k] / union[k] if union[k] > 0 else -1.0
    _apply(hits, union, ratio, hist[0])
    num_bins = hist.shape[0] - 1
    step = end / num_bins
    value, start = _mean(ratio), 0.0
    best, low, high = -1.0, 0.0, 0.0
    i = 0
    for b in range(1, num_bins + 1):
        if not flagged[b]:
            edge = (b - 1) * step  # the bin's first event lies here or later
            if _apply(hits, union, ratio, hist[b]):
                if value > best or (value == best and edge - start > high - low):
                    best, low, high = value, start, edge
                value, start = _mean(ratio), b * step
            continue
        num = 0
        for k in range(hits.size):
            num += hist[b, k, 0] + hist[b, k, 1]
        stop = i + num
        while i < stop:
            here = u[i]
            while i < stop and u[i] == here:  # one point of the line: nothing lies between its events
                j, k = old[i], new[i]
                if truth[i] == j:
                    hits[j] -= 1
                else:
                    union[j] -= 1
                if truth[i] == k:
                    hits[k] += 1
                else:
                    union[k] += 1
                ratio[j] = hits[j] / union[j] if union[j] > 0 else -1.0
                ratio[k] = hits[k] / union[k] if union[k] > 0 else -1.0
                i += 1
            after = _mean(ratio)
            if after != value:
                if value > best or (value == best and here - start > high - low):
                    best, low, high = value, start, np.float64(here)
                value, start = after, np.float64(here)
    if value > best or (value == best and end - start > high - low):
        best, low, high = value, start, end
    return best, low, high


def flag_bins(hist: Histogram, hits: Counts, union: Counts) -> NDArray[np.bool_]:
    """(B+1,) bins that can hold the optimum, or an end of its plateau: their bound reaches the best edge."""
    best, bound = _edges(hist, hits, union)
    flagged: NDArray[np.bool_] = bound >= best - 1e-12
    return flagged


def num_events(hist: Histogram, flagged: NDArray[np.bool_]) -> int:
    """How many events the flagged bins hold."""
    return int(hist[flagged][:, :, :2].sum())


def best_plateau(
    hist: Histogram, flagged: NDArray[np.bool_], events: Events, hits: Counts, union: Counts, end: float
) -> Plateau:
    """The maximum of mIoU over [0, end) of u, exact: what is not flagged cannot hold it.

    `hits`, `union` (K,) are the counts before row 0 of `hist` (B+1,K,4) is applied; `events` are those of the
    flagged bins, sorted by u.
    """
    assert events.u.size == num_events(hist, flagged)
    best, low, high = _walk(hist, flagged, events.u, events.old, events.new, events.truth, hits, union, end)
    return Plateau(float(best), float(low), float(high))
