"""A good place for the exact search to begin: a smoothed mIoU climbed by gradient, in a fraction of one exact sweep.

Enters: probabilities (M,K,P) float32 of a part of the sample, labels (P,) uint8 without ignored ones, weights (M,K).
Leaves: weights (M,K). mIoU itself is flat between the events of single pixels, and a search that moves one weight at a
time stops where no single one gains. Here a pixel belongs to class k by S_k**4 / sum of S_j**4, where S are the vote's
scores: the mean of soft Jaccard indices is then smooth in all weights at once (Rahman and Wang 2016, "Optimizing
intersection-over-union in deep neural networks", eq. 3), and L-BFGS-B finds its top in some forty evaluations. What
comes out is only a start: the exact search goes on from it, and keeps it only where the true mIoU is higher.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from analysis.voting import Float, Labels

POWER = 4  # of the scores: the higher, the closer to the argmax, and the less smooth
NUM_STEPS = 40
LOWEST = 1 / 64  # a weight's least value while it climbs; a weight of 0 stays 0


def ascend(q: Float, truth: Labels, start: Float, free: str, highest: float) -> Float:
    """Weights (M,K) no greater than `highest` from which the exact search climbs high. `free` says what may move:
    "class", a factor a class; "member", one a member; "member_class", every weight."""
    num_members, num_classes, num_pixels = q.shape
    used = (start > 0).any(1)
    logs = np.log(np.clip(start[used], LOWEST, highest)).astype(np.float64)  # (m,K)
    kept = (start[used] > 0).astype(np.float32)
    part = q[used] if not used.all() else q
    onehot = np.zeros((num_classes, num_pixels), np.float32)
    onehot[truth, np.arange(num_pixels)] = 1
    axis = {"class": 0, "member": 1, "member_class": None}[free]
    shape = {0: (1, num_classes), 1: (logs.shape[0], 1), None: logs.shape}[axis]

    def cost(x: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        weights = (np.exp(logs + x.reshape(shape)) * kept).astype(np.float32)
        value, slope = _soft_miou(part, onehot, weights)
        step = slope * weights  # d/d log w
        return -value, -(step if axis is None else step.sum(axis, keepdims=True)).ravel()

    low, high = (np.log(LOWEST) - logs.max(), np.log(highest) - logs.max())
    bounds = [(low, high)] * int(np.prod(shape)) if axis is not None else [
        (np.log(LOWEST) - value, np.log(highest) - value) for value in logs.ravel()
    ]  # fmt: skip
    found = minimize(cost, np.zeros(len(bounds)), jac=True, method="L-BFGS-B", bounds=bounds,
                     options={"maxiter": NUM_STEPS})  # fmt: skip
    out = np.zeros_like(start, dtype=np.float32)
    out[used] = np.minimum(np.exp(logs + found.x.reshape(shape)) * kept, highest)
    assert out.shape == (num_members, num_classes)
    return out


def _soft_miou(q: Float, onehot: Float, weights: Float) -> tuple[float, NDArray[np.float64]]:
    """The smoothed mIoU over the classes that occur, and its gradient (M,K)."""
    scores = np.einsum("mk,mkp->kp", weights, q) + np.float32(1e-9)  # (K,P)
    share = scores * scores
    share *= share
    share /= share.sum(0)
    per_class = onehot.sum(1, dtype=np.float64)
    hits = (share * onehot).sum(1, dtype=np.float64)
    union = per_class + share.sum(1, dtype=np.float64) - hits
    present = per_class > 0
    num_present = max(int(present.sum()), 1)
    hit = np.where(present, (1 / union + hits / union**2) / num_present, 0).astype(np.float32)
    miss = np.where(present, hits / union**2 / num_present, 0).astype(np.float32)
    slope = onehot * hit[:, None] - miss[:, None]  # d/d share, (K,P)
    slope -= (share * slope).sum(0)
    slope *= share
    slope *= POWER
    slope /= scores
    value = float((hits[present] / union[present]).sum() / num_present)
    return value, np.einsum("kp,mkp->mk", slope, q).astype(np.float64)
