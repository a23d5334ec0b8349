"""Chooses the rule to take on val, from plain to rich, and states what to ship."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from analysis.ensembling.bootstrap import Resampled, gain
from analysis.ensembling.result import NO_GAIN, Gain, Verdict

HOLDS_AT = 0.9  # a richer rule's cross-fitted gain must be above 0 in this share of resamples


def select_rule(crossfitted: Mapping[str, Resampled]) -> str:
    """The rule that the ladder takes. Rules come from plain to rich; each is compared with the one taken so far,
    and taken where its cross-fitted mIoU is higher, and higher in at least 90% of the paired resamples."""
    names = list(crossfitted)
    taken = names[0]
    for name in names[1:]:
        step = gain(crossfitted[name], crossfitted[taken])
        if step.gain > 0 and step.p_positive >= HOLDS_AT:
            taken = name
    return taken


def signed(step: Gain) -> str:
    """'+0.021 mIoU [+0.009, +0.034]'."""
    return f"{step.gain:+.3f} mIoU [{step.low:+.3f}, {step.high:+.3f}]"


BEST = "the best single model"
ALONE = {  # rules of one model: what it has, and what it gained over
    "best_single": ([], "the same model"),
    "best_single_class": (["class weights"], "the same model"),
    "best_single_views": (["its best views"], f"{BEST} in its plain view"),
}


def make_verdict(taken: str, num_members: int, step: Gain, num_images: int, *, postprocessed: bool = False) -> Verdict:
    """What was taken ships only where its paired 95% interval
    against the best single model, on the hold-out, lies above 0; `num_members` is how many members it uses."""
    alone = num_members == 1
    unseen = f"on {num_images} images that nothing was fitted to"
    if taken == "best_single" and not postprocessed:
        sentence = "ship the single model: no richer rule gained on the images of val that it was not fitted on"
        return Verdict(rule=taken, ship="single", sentence=sentence, gain=step, num_images=num_images)
    more, plain = ALONE.get(taken, ([f"the weights of {taken}"], BEST)) if alone else ([], BEST)
    more = [*more, *(["post-processing"] * postprocessed)]
    having = f" with {' and '.join(more)}" if more else ""
    if step.is_above_zero:
        without = {"the same model": " without it" if more == ["post-processing"] else " without them"}.get(plain, "")
        what = f"{'single model' if alone else f'ensemble of {num_members}'}{having}"
        sentence = f"ship the {what}: {signed(step)} over {plain}{without} {unseen}"
        rule = "postprocessed" if postprocessed else taken
        ship: Literal["single", "ensemble"] = "single" if alone else "ensemble"
        return Verdict(rule=rule, ship=ship, sentence=sentence, gain=step, num_images=num_images)
    rival = f"it{having}" if alone else f"the ensemble of {num_members}{having} ({taken})"
    sentence = (
        f"ship the single model: {rival} was taken on val, but {unseen} its gain was {signed(step)}, an interval that "
        "does not lie above 0"
    )
    return Verdict(rule="best_single", ship="single", sentence=sentence, gain=NO_GAIN, num_images=num_images)


def never_predicted(weights: NDArray[np.float32], classes: Sequence[str]) -> str | None:
    """Names the classes whose weights (M,K) sum to zero: such a class has the score 0 everywhere and wins nothing."""
    silent = [name for name, column in zip(classes, weights.T, strict=True) if not column.any()]
    if not silent:
        return None
    return (
        f"the fitted weights of {', '.join(silent)} are 0 for every member: what ships never predicts it; look at its "
        "IoU, and at how many pixels of val have it"
    )
