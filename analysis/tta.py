"""The plain view of a member, and the mean over several.

Enters: a sample's probabilities a view (V,K,P) float32, the views' names, those that were chosen (`sights`). Leaves:
their mean (K,P).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from analysis.temperature import add_tempered
from analysis.voting import Float

IDENTITY = "s1.00-none"


def plain_view(views: Sequence[str]) -> str:
    """The view by which a member is judged alone: the identity, or the first one where that was not predicted."""
    return IDENTITY if IDENTITY in views else views[0]


def mean_of_views(q: Float, views: Sequence[str], chosen: Sequence[str], out: Float, temperature: float = 1.0) -> None:
    """Writes the mean of the chosen rows of q (V,K,P) into out (K,P), in the order in which they were chosen, as they
    are where each view's logits are divided by `temperature`."""
    out[:] = 0
    share = np.float32(1 / len(chosen))
    for view in chosen:
        row = q[views.index(view)]
        if temperature == 1:
            out += share * row
        else:
            add_tempered(row, temperature, share, out)
