"""Judges a student against the ensemble that taught it and against the best single model, on the hold-out."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from analysis.ensembling.bootstrap import Draws, Resampled, gain, resample, summary
from analysis.ensembling.distilled_result import Comparison, Kept, Latency
from analysis.ensembling.verdict import signed

Counts = NDArray[np.int64]


def compare(counts: Mapping[str, Counts], draws: Draws) -> Comparison:
    """`counts` (N,K,K) of `single`, of it with class weights (`rival`), of `ensemble` and `distilled`, of the same
    images in the same order; all are resampled alike."""
    scored = {name: resample(found, draws) for name, found in counts.items()}
    single, ensemble, student = (scored[name] for name in ("single", "ensemble", "distilled"))
    return Comparison(
        unit=draws.unit,
        num_images=len(counts["distilled"]),
        single=summary(single),
        ensemble=summary(ensemble),
        distilled=summary(student),
        ensemble_over_single=gain(ensemble, single),
        over_single=gain(student, single),
        over_rival=gain(student, scored["rival"]),
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
    low, high = np.percentile(ratios[np.isfinite(ratios)], [2.5, 97.5]).tolist()
    return Kept(share=gain(student, single).gain / whole.gain, low=low, high=high)


def sentence_of(found: Comparison, latency: Latency, rule: str, num_members: int) -> str:
    """What a reader wants to know first."""
    cost = f"{latency.of_ensemble:.0%} of its cost"
    beside = f"{signed(found.over_single)} over the single model, {signed(found.over_ensemble)} beside the ensemble"
    unseen = f"of {num_members} ({rule}), on {found.num_images} images that nothing was fitted to"
    doubt = "" if found.is_better else "; a gain over the single model is not shown"
    if found.kept is None:
        return (
            f"the ensemble's own gain over the single model is not shown ({signed(found.ensemble_over_single)}), so "
            f"that no share of it can be named; the distilled model, at {cost}: {beside} {unseen}{doubt}"
        )
    bounds = f" [{found.kept.low:.0%}, {found.kept.high:.0%}]"
    return (
        f"the distilled model keeps {found.kept.share:.0%}{bounds} of the ensemble's gain at {cost}: {beside} "
        f"{unseen}{doubt}"
    )
