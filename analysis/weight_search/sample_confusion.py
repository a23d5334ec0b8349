"""Confusion counts of soft votes on a weighted sample of pixels."""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

from analysis.voting.votes import BLOCK, Float, Labels, block_labels, class_scores
from analysis.weight_search.strata import Strata, of_pixels


@numba.njit(cache=True, nogil=True, error_model="numpy", fastmath=False)
def _count(q, weights, truth, ends, weighs, out):  # type: ignore[no-untyped-def] # (M,K,P), (M,K), (P,), (S,) x2 -> adds to (K,K) int64
    score, best = np.empty(BLOCK, np.float32), np.empty(BLOCK, np.float32)
    who = np.empty(BLOCK, np.int32)
    begin = 0
    for stratum in range(ends.size):
        for start in range(begin, ends[stratum], BLOCK):
            stop = min(start + BLOCK, ends[stratum])
            block_labels(q, weights, start, stop, score, best, who)
            for i in range(stop - start):
                if truth[start + i] != 255:
                    out[truth[start + i], who[i]] += weighs[stratum]
        begin = ends[stratum]


@numba.njit(cache=True, nogil=True, error_model="numpy", fastmath=False)
def _count_each(q, weights, truth, ends, weighs, out):  # type: ignore[no-untyped-def] # (M,K,P), (M,K), (P,), (S,) x2 -> adds to (M,K,K) int64
    num_classes = q.shape[1]
    total = np.empty((num_classes, BLOCK), np.float32)
    best, who = np.empty(BLOCK, np.float32), np.empty(BLOCK, np.int32)
    begin = 0
    for stratum in range(ends.size):
        for start in range(begin, ends[stratum], BLOCK):
            stop = min(start + BLOCK, ends[stratum])
            for k in range(num_classes):
                class_scores(q, weights, k, start, stop, total[k])
            for m in range(q.shape[0]):  # while the block's probabilities are near
                best[:] = -1
                who[:] = 0
                for k in range(num_classes):
                    so_far, more = total[k], q[m, k, start:stop]
                    for i in range(stop - start):
                        score = so_far[i] + more[i]
                        better = score > best[i]
                        best[i] = score if better else best[i]
                        who[i] = np.int32(k) if better else who[i]
                for i in range(stop - start):
                    if truth[start + i] != 255:
                        out[m, truth[start + i], who[i]] += weighs[stratum]
        begin = ends[stratum]


def sample_confusion(q: Float, weights: Float, truth: Labels, strata: Strata | None = None) -> NDArray[np.int64]:
    """Counts (K,K) [true, predicted] of a soft vote on a sample (M,K,P), each pixel as many times as it weighs (once
    without `strata`); truth 255 counts for nothing."""
    counts = np.zeros((q.shape[1], q.shape[1]), np.int64)
    _count(q, weights, truth, *of_pixels(strata, truth.size).arrays, counts)
    return counts


def confusion_with_each(q: Float, weights: Float, truth: Labels, strata: Strata | None = None) -> NDArray[np.int64]:
    """Counts (M,K,K) as `sample_confusion` makes them, of the soft vote to whose scores member m's probabilities are
    added once more, for each m."""
    counts = np.zeros((q.shape[0], q.shape[1], q.shape[1]), np.int64)
    _count_each(q, weights, truth, *of_pixels(strata, truth.size).arrays, counts)
    return counts
