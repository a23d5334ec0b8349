"""What the rules look at: the plain view of one member, its own best views, or views of several chosen together.

Enters: a `FittingSample` and the folds of val. Leaves: `Sights` of the fit on all of val (None) and of the fit without
each fold. Choosing views is part of a fit: those of a fold are chosen without its images.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from analysis.crossfit import Folds
from analysis.passes import Look, Views
from analysis.sampling import FittingSample
from analysis.strata import Strata
from analysis.tta import choose_views, mean_of_views, plain_view
from analysis.voting import Float, Labels, sample_confusion
from trainables.metrics import miou


@dataclass(frozen=True)
class Sights:
    """What the rules of one fit look at."""

    plain: Look  # one member, its plain view
    own: Look  # one member, its own best views
    joint: Look  # the members and views that were chosen together
    own_views: Views  # each member's own best views


def choose_sights(sample: FittingSample, folds: Folds, min_gain: float) -> dict[int | None, Sights]:
    """Sights by fold, and of all of val under None, where the first member is the best single one."""
    held_out = folds.of_image[sample.image]  # (P,)
    found: dict[int | None, Sights] = {None: _choose(sample, sample.truth, min_gain, best=0)}
    for fold in range(folds.num):
        truth = np.where(held_out == fold, np.uint8(255), sample.truth)
        found[fold] = _choose(sample, truth, min_gain, best=None)
    return found


def _choose(sample: FittingSample, truth: Labels, min_gain: float, best: int | None) -> Sights:
    own = tuple(
        choose_views(q, truth, names, min_gain, sample.strata)
        for q, names in zip(sample.by_view, sample.names, strict=True)
    )
    plain = tuple((plain_view(names),) for names in sample.names)
    best = _best(sample, plain, truth) if best is None else best
    return Sights(_only(plain, best), _only(own, _best(sample, own, truth)), Look.plain(own), own)


def _only(views: Views, member: int) -> Look:
    return Look.plain(tuple(names if m == member else () for m, names in enumerate(views)))


def _best(sample: FittingSample, views: Views, truth: Labels) -> int:
    """The member with the highest mIoU on the sample through its `views`; the first one of equals."""
    q = np.empty(sample.by_view[0].shape[1:], np.float32)  # (K,P)
    scores = []
    for by_view, names, chosen in zip(sample.by_view, sample.names, views, strict=True):
        mean_of_views(by_view, names, chosen, q)
        scores.append(_miou(q, truth, sample.strata))
    return int(np.argmax(scores))


def _miou(q: Float, truth: Labels, strata: Strata) -> float:  # (K,P), (P,)
    return float(miou(sample_confusion(q[None], np.ones((1, len(q)), np.float32), truth, strata)))
