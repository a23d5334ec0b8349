"""How sure a teacher must be of a pixel, per class, so that it is right as often as is asked for.

What is measured is precision on labelled pixels that the teacher was not trained on (out of fold, or val): of the
pixels that it calls class k with at least confidence c, the share that is k. Confidence is the probability of the
predicted class, in NUM_BINS equal bins; counts add over images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trainables.data.index import IGNORE_INDEX

NUM_BINS = 1000
NEVER = NUM_BINS  # of a class that is never sure enough
MIN_PIXELS = 200  # of which a precision is read at least
Float = NDArray[np.float32]
Labels = NDArray[np.uint8]
Bins = NDArray[np.uint16]  # 0 to NUM_BINS - 1
Counts = NDArray[np.int64]


@dataclass(frozen=True)
class ClassThreshold:
    """Of one class. `least_bin` is NEVER, and precision None, where no confidence is enough."""

    least_bin: int
    precision: float | None  # of the pixels at or above it, as it was measured
    kept: float  # share of the measured pixels that were called this class

    @property
    def confidence(self) -> float | None:
        """The least confidence."""
        return None if self.least_bin == NEVER else self.least_bin / NUM_BINS


def predict(shares: Float) -> tuple[Labels, Bins]:
    """Probabilities (K,H,W) -> labels (H,W) and the bins of their confidence (H,W)."""
    labels = shares.argmax(0).astype(np.uint8)
    sure = np.take_along_axis(shares, labels[None].astype(np.intp), axis=0)[0]
    return labels, np.clip(sure * NUM_BINS, 0, NUM_BINS - 1).astype(np.uint16)


def count_precision(labels: Labels, bins: Bins, truth: Labels, num_classes: int) -> Counts:
    """Counts (K,NUM_BINS,2) of one image: [class that is called, bin, whether it is right], of its labelled pixels."""
    known = truth != IGNORE_INDEX
    called, sure = labels[known].astype(np.int64), bins[known].astype(np.int64)
    flat = (called * NUM_BINS + sure) * 2 + (called == truth[known])
    counts: Counts = np.bincount(flat, minlength=num_classes * NUM_BINS * 2).reshape(num_classes, NUM_BINS, 2)
    return counts


def count_calls(labels: Labels, bins: Bins, num_classes: int) -> Counts:
    """Counts (K,NUM_BINS) of one image: [class that is called, bin]."""
    flat = labels.ravel().astype(np.int64) * NUM_BINS + bins.ravel()
    counts: Counts = np.bincount(flat, minlength=num_classes * NUM_BINS).reshape(num_classes, NUM_BINS)
    return counts


def fit_thresholds(counts: Counts, targets: Sequence[float]) -> tuple[ClassThreshold, ...]:
    """Per class the lowest confidence from which on its precision is at least the target, read on MIN_PIXELS pixels or
    more; `counts` (K,NUM_BINS,2) are those of `count_precision`, summed over images."""
    found = []
    for of_class, target in zip(counts, targets, strict=True):
        wrong, right = of_class[::-1].cumsum(0)[::-1].T  # of pixels in a bin or above
        total = wrong + right
        precision = right / np.maximum(total, 1)
        enough = np.flatnonzero((precision >= target) & (total >= MIN_PIXELS))
        if enough.size:
            low = int(enough[0])
            found.append(ClassThreshold(low, float(precision[low]), float(total[low] / total[0])))
        else:
            found.append(ClassThreshold(NEVER, None, 0.0))
    return tuple(found)


def cap_frequent(calls: Counts, least_bins: Sequence[int], cap: float) -> tuple[int, ...]:
    """Thresholds raised so that no class keeps more than about `cap` times the pixels of the median class, its surest
    pixels first; `calls` (K,NUM_BINS) are those of `count_calls`, summed. Classes without a sure pixel are no part of
    the median. A bin is kept whole or not, and at least the surest bin that has a pixel is kept."""
    kept = [int(of_class[low:].sum()) for of_class, low in zip(calls, least_bins, strict=True)]
    some = [count for count in kept if count]
    if not some:
        return tuple(least_bins)
    most = cap * float(np.median(some))
    raised = []
    for of_class, low, count in zip(calls, least_bins, kept, strict=True):
        if count <= most:
            raised.append(int(low))
            continue
        above = of_class[::-1].cumsum()[::-1]  # of pixels in a bin or above
        surest = int(np.flatnonzero(of_class)[-1])
        within = np.flatnonzero(above <= most)
        raised.append(min(max(int(low), int(within[0]) if within.size else surest), surest))
    return tuple(raised)


def certain(labels: Labels, bins: Bins, least_bins: Sequence[int]) -> Labels:
    """The labels (H,W) whose confidence is enough for their class; the others are ignored."""
    table = np.asarray(least_bins, np.int64)
    return np.where(bins >= table[labels], labels, np.uint8(IGNORE_INDEX)).astype(np.uint8)
