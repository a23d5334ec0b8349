"""A good start for the exact search: a smoothed mIoU climbed by gradient, in a fraction of one exact sweep.

mIoU itself is flat between the events of single pixels, and a search that moves one weight at a time stops where no
single one gains. Here a pixel belongs to class k by S_k**n / sum of S_j**n, where S are the vote's scores: the mean of
soft Jaccard indices is then smooth in all weights at once (Rahman and Wang 2016, "Optimizing intersection-over-union in
deep neural networks", eq. 3), and L-BFGS-B comes near its top in some forty evaluations. The higher n, the closer to
the argmax and the less smooth. The result is only a start: the exact search goes on from it, and keeps it only where
the true mIoU is higher.
"""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from analysis.voting.votes import Float, Labels, class_scores
from analysis.weight_search.strata import Strata, of_pixels

Vector = NDArray[np.float64]
SQUARINGS = 2  # of the scores: n is 4. Higher, more is gained on the few pixels and no more on all
NUM_STEPS = 40
LOWEST = 1 / 64  # a weight's least value while it climbs; a weight of 0 stays 0
PIXELS = 256  # worked on at once
_SUMS = {"reassoc", "contract", "nsz"}  # sums over pixels in SIMD lanes


def ascend(q: Float, truth: Labels, start: Float, free: str, highest: float, strata: Strata | None = None) -> Float:
    """Weights (M,K) no greater than `highest` from which the exact search climbs high. `free` says what may move:
    "class", a factor per class; "member", one per member; "member_class", every weight."""
    num_members, num_classes, num_pixels = q.shape
    used = (start > 0).any(1)
    logs = np.log(np.clip(start[used], LOWEST, highest)).astype(np.float64)  # (m,K)
    kept = (start[used] > 0).astype(np.float32)
    part = q[used] if not used.all() else q
    strata = of_pixels(strata, num_pixels)
    axis = {"class": 0, "member": 1, "member_class": None}[free]
    shape = {0: (1, num_classes), 1: (logs.shape[0], 1), None: logs.shape}[axis]

    def cost(x: Vector) -> tuple[float, Vector]:
        weights = (np.exp(logs + x.reshape(shape)) * kept).astype(np.float32)
        value, slope = soft_miou(part, truth, weights, strata)
        step = slope * weights  # d/d log w
        return -value, -(step if axis is None else step.sum(axis, keepdims=True)).ravel()

    most = logs if axis is None else np.full(shape, logs.max())
    occurs = np.isin(np.arange(num_classes), truth)  # other classes could only lose: their weights stay
    moves = np.broadcast_to(occurs if axis != 1 else True, shape).ravel()
    bounds = [
        (np.log(LOWEST) - at, np.log(highest) - at) if free_here else (0.0, 0.0)
        for at, free_here in zip(most.ravel(), moves, strict=True)
    ]
    found = minimize(cost, np.zeros(len(bounds)), jac=True, method="L-BFGS-B", bounds=bounds,
                     options={"maxiter": NUM_STEPS})  # fmt: skip
    out = np.zeros_like(start, dtype=np.float32)
    out[used] = np.exp(logs + found.x.reshape(shape)) * kept
    assert out.shape == (num_members, num_classes)
    return np.minimum(out, np.float32(highest))


def soft_miou(q: Float, truth: Labels, weights: Float, strata: Strata) -> tuple[float, Vector]:
    """The smoothed mIoU over the classes that occur, and its gradient (M,K)."""
    num_classes = q.shape[1]
    ends, weighs = strata.arrays
    score, share = np.empty((2, num_classes, truth.size), np.float32)  # (K,P) each
    hits, mass, per_class = np.zeros((3, num_classes))
    _shares(q, weights, truth, ends, weighs, score, share, hits, mass, per_class)
    present = per_class > 0
    union = np.maximum(per_class + mass - hits, 1e-12)
    num_present = max(int(present.sum()), 1)
    hit = np.where(present, (1 / union + hits / union**2) / num_present, 0)
    miss = np.where(present, hits / union**2 / num_present, 0)
    slope = np.zeros(weights.shape)
    _slope(q, truth, ends, weighs, score, share, hit, miss, slope)
    return float((hits[present] / union[present]).sum() / num_present), slope


@numba.njit(cache=True, nogil=True, error_model="numpy", fastmath=_SUMS)
def _shares(q, weights, truth, ends, weighs, score, share, hits, mass, per_class):  # type: ignore[no-untyped-def]
    """Fills score and share (K,P); adds up what each class hits, claims and holds (K,)."""
    top, total = np.empty(PIXELS, np.float32), np.empty(PIXELS, np.float32)
    begin = 0
    for stratum in range(ends.size):
        weigh = weighs[stratum]
        for start in range(begin, ends[stratum], PIXELS):
            stop = min(start + PIXELS, ends[stratum])
            size = stop - start
            top[:] = 0
            total[:] = 0
            for k in range(q.shape[1]):
                s = score[k, start:stop]
                class_scores(q, weights, k, start, stop, s)
                for i in range(size):
                    s[i] += np.float32(1e-9)
                    top[i] = max(top[i], s[i])
            for k in range(q.shape[1]):
                s, p = score[k, start:stop], share[k, start:stop]
                for i in range(size):
                    p[i] = s[i] / top[i]
                for _ in range(SQUARINGS):
                    for i in range(size):
                        p[i] *= p[i]
                for i in range(size):
                    total[i] += p[i]
            for i in range(size):
                total[i] = np.float32(1) / total[i]
            for k in range(q.shape[1]):
                p, claimed = share[k, start:stop], np.float32(0)
                for i in range(size):
                    p[i] *= total[i]
                    claimed += p[i]
                mass[k] += weigh * claimed
            for i in range(size):
                hits[truth[start + i]] += weigh * share[truth[start + i], start + i]
                per_class[truth[start + i]] += weigh
        begin = ends[stratum]


@numba.njit(cache=True, nogil=True, error_model="numpy", fastmath=_SUMS)
def _slope(q, truth, ends, weighs, score, share, hit, miss, slope):  # type: ignore[no-untyped-def]
    """Adds the gradient to slope (M,K), from that of the soft mIoU by a pixel's share: hit - miss where the class is
    the truth, -miss elsewhere."""
    mean, factor = np.empty(PIXELS, np.float32), np.empty(PIXELS, np.float32)
    begin = 0
    for stratum in range(ends.size):
        scale = np.float64(weighs[stratum]) * 2.0**SQUARINGS
        for start in range(begin, ends[stratum], PIXELS):
            stop = min(start + PIXELS, ends[stratum])
            size = stop - start
            labels = truth[start:stop]
            for i in range(size):
                mean[i] = np.float32(hit[labels[i]]) * share[labels[i], start + i]
            for k in range(q.shape[1]):
                p, less = share[k, start:stop], np.float32(miss[k])
                for i in range(size):
                    mean[i] -= less * p[i]
            for k in range(q.shape[1]):
                p, s, more, less = share[k, start:stop], score[k, start:stop], np.float32(hit[k]), np.float32(miss[k])
                for i in range(size):
                    own = (more if np.int32(labels[i]) == np.int32(k) else np.float32(0)) - less
                    factor[i] = p[i] * (own - mean[i]) / s[i]
                for m in range(q.shape[0]):
                    values, total = q[m, k, start:stop], np.float32(0)
                    for i in range(size):
                        total += factor[i] * values[i]
                    slope[m, k] += scale * total
        begin = ends[stratum]
