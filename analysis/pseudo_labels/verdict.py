"""Whether pseudo labels helped: per round cross-fitted or on val, in the end on the hold-out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from analysis.ensembling.bootstrap import Draws, gain, resample
from analysis.ensembling.distilled_result import Comparison
from analysis.ensembling.pseudo_result import PseudoRound
from analysis.ensembling.result import Gain
from analysis.ensembling.verdict import signed

Counts = NDArray[np.int64]


def gain_of(student: Counts, plain: Counts, draws: Draws) -> Gain:
    """The paired gain of a student over the same recipe without pseudo labels, by their counts (N,K,K)."""
    return gain(resample(student, draws), resample(plain, draws))


def holds(step: Gain, confidence: float) -> bool:
    """Whether it is above 0 in at least the share `confidence` of the resamples."""
    return step.gain > 0 and step.p_positive >= confidence


def reason_of(step: Gain, confidence: float, judged_on: str) -> str:
    """Why a round counts as a help or not."""
    shown = f"{signed(step)} on {judged_on}, above 0 in {step.p_positive:.0%} of resamples"
    return shown if holds(step, confidence) else f"{shown} ({confidence:.0%} needed)"


def sentence_of(rounds: Sequence[PseudoRound], crossfit: Gain | None, found: Comparison | None) -> str:
    """What a reader wants to know first; `crossfit` and `found` are of the last round that helped."""
    if found is None or crossfit is None:
        return f"pseudo labels did not help: {rounds[0].reason}; the hold-out was not opened for them"
    step = f"{signed(found.over_single)} over the same recipe without them"
    unseen = f"on {found.num_images} images that nothing was fitted to"
    beside = f"cross-fitted {signed(crossfit)}; {signed(found.over_ensemble)} beside the ensemble"
    if found.is_better:
        return f"pseudo labels helped: {step} {unseen} ({beside})"
    return f"pseudo labels did not help: {step} {unseen}, an interval that does not lie above 0 ({beside})"
