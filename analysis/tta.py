"""Which views of a member are worth their inference time, chosen after training from stored logits.

Enters: a sample's probabilities a view (V,K,P) float32, labels (P,) uint8 (255: ignored), the views' names. Leaves:
the chosen names. A view is added to the identity view's mean while it raises the sample's mIoU by `min_gain`: each
one costs a whole inference of every image that is ever predicted.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from analysis.greedy import forward
from analysis.strata import Strata
from analysis.temperature import add_tempered
from analysis.voting import Float, Labels

IDENTITY = "s1.00-none"
MIN_GAIN = 0.001  # mIoU


def plain_view(views: Sequence[str]) -> str:
    """The view by which a member is judged alone: the identity, or the first one where that was not predicted."""
    return IDENTITY if IDENTITY in views else views[0]


def choose_views(
    q: Float, truth: Labels, views: Sequence[str], min_gain: float = MIN_GAIN, strata: Strata | None = None
) -> tuple[str, ...]:
    """Names of the chosen views, in the order in which they were added; q is (V,K,P), one row a name of `views`.

    Starts from the plain view.
    """
    start = views.index(plain_view(views))
    picks = forward(q, truth, start, len(views), min_gain, again=False, strata=strata)
    return tuple(views[row] for row in picks.members)


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
