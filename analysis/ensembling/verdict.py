"""Chooses the rule to take on val, from plain to rich, and states what to ship."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from analysis.ensembling.bootstrap import MIN_GROUPS, Resampled, gain, widening
from analysis.ensembling.result import NO_GAIN, Gain, Verdict

HOLDS_AT = 0.9  # a richer rule's cross-fitted gain must be above 0 in this share of resamples
SMALL_GAIN = 0.02  # mIoU: what teams ask an ensemble for


@dataclass(frozen=True)
class Selection:
    """The rule that the ladder takes, and why each was taken or not."""

    taken: str
    reasons: dict[str, str]


def select_rule(crossfitted: Mapping[str, Resampled], confidence: float = HOLDS_AT) -> Selection:
    """Rules come from plain to rich; each is compared with the one taken so far, and taken where its cross-fitted mIoU
    is higher, and higher in at least the share `confidence` of the paired resamples."""
    names = list(crossfitted)
    taken, reasons = names[0], {names[0]: "the plainest rule, which the others have to beat"}
    for name in names[1:]:
        step = gain(crossfitted[name], crossfitted[taken])
        holds = step.gain > 0 and step.p_positive >= confidence
        shown = f"above 0 in {step.p_positive:.0%} of resamples ({confidence:.0%} needed)"
        if step.low is None:
            shown = "which one group of images cannot show to hold"
        reasons[name] = f"{'taken' if holds else 'not taken'}: {step.gain:+.4f} over {taken}, {shown}"
        if holds:
            taken = name
    return Selection(taken, reasons)


def signed(step: Gain) -> str:
    """'+0.021 mIoU [+0.009, +0.034]'."""
    if step.low is None or step.high is None:
        return f"{step.gain:+.3f} mIoU (no interval: one group)"
    return f"{step.gain:+.3f} mIoU [{step.low:+.3f}, {step.high:+.3f}]"


BEST = "the best single model"
ALONE = {  # rules of one model: what it has, and what it gained over
    "best_single": ([], "the same model"),
    "best_single_class": (["class weights"], "the same model"),
    "best_single_views": (["its best views"], f"{BEST} in its plain view"),
}


def make_verdict(taken: str, num_members: int, step: Gain, num_images: int, *, postprocessed: bool = False) -> Verdict:
    """What was taken ships only where its paired 95% interval against the best single model, on the hold-out, lies
    above 0; `num_members` is how many members it uses."""
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
    rival = f"that model{having}" if alone else f"the ensemble of {num_members}{having} ({taken})"
    doubt = "" if step.low is None else ", an interval that does not lie above 0"
    sentence = f"ship the single model: {rival} was taken on val, but {unseen} its gain was {signed(step)}{doubt}"
    return Verdict(rule="best_single", ship="single", sentence=sentence, gain=NO_GAIN, num_images=num_images)


def too_few_groups(num_groups: int, split: str, step: Gain | None = None) -> str | None:
    """What so few groups cannot show, and how many would: the interval's half-width falls with their square root, and
    with what they are widened by. `step` is the gain that was read on them, None where none was."""
    if num_groups >= MIN_GROUPS:
        return None
    if num_groups == 1:
        return f"{split} is one group: no gain can be shown on it, however large; {MIN_GROUPS} groups are few"
    factor = widening(num_groups)
    widened = (
        f"{split} has {num_groups} groups, so its intervals are {factor:.1f} times as wide as resamples of them are"
    )
    half = 0.0 if step is None or step.low is None or step.high is None else (step.high - step.low) / 2
    if half <= SMALL_GAIN:
        return f"{widened}; {MIN_GROUPS} or more show smaller gains"
    spread = half * np.sqrt(num_groups) / factor
    needed = next(n for n in range(num_groups + 1, 10**6) if spread * widening(n) / np.sqrt(n) <= SMALL_GAIN)
    return (
        f"{widened}: a gain of {SMALL_GAIN} mIoU cannot be shown on them (an interval reaches {half:.3f} to either "
        f"side); about {needed} groups like these would do"
    )


def absent_classes(classes: Sequence[str], val: NDArray[np.int64], holdout: NDArray[np.int64]) -> list[str]:
    """What has to be known of classes that do not occur in val or in the hold-out, by their counts (N,K,K)."""
    said = []
    for counts, text in (
        (val, "of val: mIoU on val leaves them out, and weights per class keep the plainer rule's for them"),
        (holdout, "of the hold-out: its mIoU leaves them out"),
    ):
        missing = [classes[k] for k in np.flatnonzero(counts.sum((0, 2)) == 0).tolist()]
        if missing:
            said.append(f"{', '.join(missing)} {'occurs' if len(missing) == 1 else 'occur'} in no image {text}")
    return said


def never_predicted(weights: NDArray[np.float32], classes: Sequence[str]) -> str | None:
    """Names the classes whose weights (M,K) sum to zero: such a class has the score 0 everywhere and wins nothing."""
    silent = [name for name, column in zip(classes, weights.T, strict=True) if not column.any()]
    if not silent:
        return None
    return (
        f"the fitted weights of {', '.join(silent)} are 0 for every member: what ships never predicts it; look at its "
        "IoU, and at how many pixels of val have it"
    )
