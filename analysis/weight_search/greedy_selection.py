"""Greedy forward selection on mIoU, members with replacement (Caruana et al. 2004).

Returns weights (M,K). Ties go to the lower index, so the result depends on the input alone.
"""

from __future__ import annotations

import numpy as np

from analysis.voting.votes import Float
from analysis.weight_search.pixels import Pixels
from trainables.metrics import miou


def best_member(pixels: Pixels) -> int:
    """The member with the highest mIoU on the sample; the first one of equals."""
    return int(np.argmax(miou(pixels.confusion_with_each(np.zeros(pixels.shape, np.float32)))))


def select_members(pixels: Pixels, num_picks: int = 20) -> Float:
    """Weights (M,K): how often each member was picked, up to the pick after which mIoU was highest.

    Selection with replacement from an empty ensemble (Caruana et al. 2004, "Ensemble selection from libraries of
    models"). Every pick is one pass over the pixels, which scores all members as the next.
    """
    weights = np.zeros(pixels.shape, np.float32)
    best, highest = weights.copy(), -1.0
    for _ in range(num_picks):
        scores = miou(pixels.confusion_with_each(weights))  # (M,)
        pick = int(np.argmax(scores))
        weights[pick] += 1
        if scores[pick] > highest:
            best, highest = weights.copy(), float(scores[pick])
    return best
