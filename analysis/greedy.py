"""Greedy forward selection on mIoU: members with replacement (Caruana et al. 2004), or views without.

Enters: a sample's probabilities (M,K,P) float32 and labels (P,) uint8 (255: ignored). Leaves: what was picked, in
order, and the sample's mIoU after every pick. Ties go to the lower index, so the result depends on nothing but the
input.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np
from numpy.typing import NDArray

from analysis.strata import Strata, of_pixels
from analysis.voting import BLOCK, Float, Labels
from trainables.metrics import miou


@dataclass(frozen=True)
class Picks:
    """`miou[i]` is the sample's after `members[:i + 1]`."""

    members: list[int]
    miou: list[float]


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _count_with(total, q, truth, ends, weighs, out):  # type: ignore[no-untyped-def] # (K,P), (K,P), (P,), (S,) x2 -> adds to (K,K)
    """Counts the argmax of total + q."""
    best, who = np.empty(BLOCK, np.float32), np.empty(BLOCK, np.int32)
    begin = 0
    for stratum in range(ends.size):
        for start in range(begin, ends[stratum], BLOCK):
            size = min(BLOCK, ends[stratum] - start)
            best[:] = -1
            who[:] = 0
            for k in range(total.shape[0]):
                so_far, more = total[k, start : start + size], q[k, start : start + size]
                for i in range(size):
                    score = so_far[i] + more[i]
                    better = score > best[i]
                    best[i] = score if better else best[i]
                    who[i] = np.int32(k) if better else who[i]
            for i in range(size):
                if truth[start + i] != 255:
                    out[truth[start + i], who[i]] += weighs[stratum]
        begin = ends[stratum]


def _miou_with(total: Float, q: Float, truth: Labels, strata: Strata) -> float:
    counts: NDArray[np.int64] = np.zeros((q.shape[0], q.shape[0]), np.int64)
    _count_with(total, q, truth, *strata.arrays, counts)
    return float(miou(counts))


def forward(
    q: Float,
    truth: Labels,
    first: int | None,
    num_picks: int,
    min_gain: float,
    *,
    again: bool,
    strata: Strata | None = None,
) -> Picks:
    """Adds, `num_picks` times at most, the row of q (M,K,P) whose sum with the earlier ones has the highest mIoU.

    Starts from row `first` where one is given; `again` lets a row be picked more than once. Stops where the best
    pick gains less than `min_gain`, which may be negative: then it goes on through a dip.
    """
    strata = of_pixels(strata, truth.size)
    total = np.zeros(q.shape[1:], np.float32)  # (K,P)
    picks = Picks([], [])
    while len(picks.members) < num_picks:
        fresh = not picks.members and first is not None
        rows = [first] if fresh and first is not None else range(q.shape[0])
        scores = {m: _miou_with(total, q[m], truth, strata) for m in rows if again or m not in picks.members}
        if not scores:
            break
        best = max(scores, key=lambda m: (scores[m], -m))
        if picks.miou and scores[best] - picks.miou[-1] < min_gain:
            break
        total += q[best]
        picks.members.append(best)
        picks.miou.append(scores[best])
    return picks


def select_members(q: Float, truth: Labels, num_picks: int = 20, strata: Strata | None = None) -> Float:
    """Weights (M,K): how often each member was picked, up to the pick after which mIoU was highest.

    Selection with replacement from an empty ensemble (Caruana et al. 2004, "Ensemble selection from libraries of
    models").
    """
    picks = forward(q, truth, None, num_picks, -1.0, again=True, strata=strata)
    last = int(np.argmax(picks.miou))
    counts = np.bincount(picks.members[: last + 1], minlength=q.shape[0]).astype(np.float32)
    return np.repeat(counts[:, None], q.shape[1], axis=1)
