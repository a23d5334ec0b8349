"""Judges a student against the ensemble that taught it and against the best single model, on the hold-out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from analysis.distillation.result import Kept, Latency
from analysis.ensembling.bootstrap import Resampled, gain
from analysis.ensembling.result import Gain
from analysis.ensembling.verdict import signed


@dataclass(frozen=True)
class Compared:
    """The student's gains, paired on the hold-out."""

    ensemble_over_single: Gain
    over_single: Gain
    over_rival: Gain
    over_ensemble: Gain
    kept: Kept | None


def compare(single: Resampled, rival: Resampled, ensemble: Resampled, student: Resampled) -> Compared:
    """All of the same resamples; `rival` is the best single model with class weights."""
    return Compared(
        ensemble_over_single=gain(ensemble, single),
        over_single=gain(student, single),
        over_rival=gain(student, rival),
        over_ensemble=gain(student, ensemble),
        kept=kept_share(single, ensemble, student),
    )


def kept_share(single: Resampled, ensemble: Resampled, student: Resampled) -> Kept | None:
    """The share of the ensemble's gain that the student has, with the percentile interval of the paired ratio; None
    where the interval of the ensemble's gain does not lie above 0: a share of nothing can be any number."""
    whole = gain(ensemble, single)
    if not whole.is_above_zero:
        return None
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = (student.mious - single.mious) / (ensemble.mious - single.mious)
    known = ratios[np.isfinite(ratios)]
    low, high = np.percentile(known, [2.5, 97.5]).tolist() if known.size else (None, None)
    return Kept(share=gain(student, single).gain / whole.gain, low=low, high=high)


def sentence_of(found: Compared, latency: Latency, rule: str, num_members: int, num_images: int) -> str:
    """What a reader wants to know first."""
    cost = f"{latency.of_ensemble:.0%} of its cost"
    beside = f"{signed(found.over_single)} over the single model, {signed(found.over_ensemble)} beside the ensemble"
    unseen = f"of {num_members} ({rule}), on {num_images} images that nothing was fitted to"
    doubt = "" if found.over_single.is_above_zero else "; a gain over the single model is not shown"
    if found.kept is None:
        return (
            f"the ensemble's own gain over the single model is not shown ({signed(found.ensemble_over_single)}), so "
            f"that no share of it can be named; the distilled model, at {cost}: {beside} {unseen}{doubt}"
        )
    bounds = "" if found.kept.low is None else f" [{found.kept.low:.0%}, {found.kept.high:.0%}]"
    return (
        f"the distilled model keeps {found.kept.share:.0%}{bounds} of the ensemble's gain at {cost}: {beside} "
        f"{unseen}{doubt}"
    )
