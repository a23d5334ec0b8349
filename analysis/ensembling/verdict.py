"""Chooses the rule to take on val, and states what to ship."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from analysis.ensembling.bootstrap import MIN_GROUPS, Resampled, gain, widening
from analysis.ensembling.result import NO_GAIN, FormResult, Gain, Verdict

HOLDS_AT = 0.9  # a cross-fitted gain must be above 0 in this share of resamples
SMALL_GAIN = 0.02  # mIoU: what teams ask an ensemble for


@dataclass(frozen=True)
class Selection:
    """The rule that is taken on val, and why each was taken or not."""

    taken: str
    reasons: dict[str, str]


def select_rule(crossfitted: Mapping[str, Resampled], confidence: float = HOLDS_AT) -> Selection:
    """Of the rules whose gain over the plainest, the first, holds (it is above 0 in at least the share `confidence` of
    the paired resamples), the one with the highest cross-fitted mIoU; the plainer of equals.

    docs/LOG.md compares it with a ladder of steps that must each hold, with the best score and with the plainest rule
    within one standard error of it (`tests/benchmarks/bench_policies.py`).
    """
    plainest, *richer = crossfitted
    steps = {name: gain(crossfitted[name], crossfitted[plainest]) for name in richer}
    held = [name for name, step in steps.items() if _holds(step, confidence)]
    taken = max([plainest, *held], key=lambda name: crossfitted[name].miou)
    reasons = {plainest: "the plainest rule, which the others have to beat"}
    for name, step in steps.items():
        shown = f"{step.gain:+.4f} over {plainest}, above 0 in {step.p_positive:.0%} of resamples"
        if step.low is None:
            reasons[name] = (
                f"not taken: {step.gain:+.4f} over {plainest}, which one group of images cannot show to hold"
            )
        elif name not in held:
            reasons[name] = f"not taken: {shown} ({confidence:.0%} needed)"
        elif name != taken:
            reasons[name] = f"not taken: {shown}, and {taken} gains more"
        else:
            reasons[name] = f"taken: {shown}, the most of all whose gain holds ({confidence:.0%} needed)"
    return Selection(taken, reasons)


def climb(crossfitted: Mapping[str, Resampled], confidence: float = HOLDS_AT) -> str:
    """Where the steps come from cheap to expensive: each is compared with the one taken so far, and taken where its
    gain over that holds, since it costs every image for ever."""
    taken, *dearer = crossfitted
    for name in dearer:
        if _holds(gain(crossfitted[name], crossfitted[taken]), confidence):
            taken = name
    return taken


def _holds(step: Gain, confidence: float) -> bool:
    return step.gain > 0 and step.p_positive >= confidence


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


def describe_form(form: FormResult, shipped_cost: float) -> str:
    """What the shipped rule would be with its members in another form."""
    what = {
        "refit": "one refit per recipe instead of the mean of its fold models",
        "mean": "the mean of each recipe's fold models instead of its refit",
    }[form.form]
    share = form.cost / shipped_cost
    return f"with {what}: {signed(form.gain_over_shipped)} beside what ships, at {share:.0%} of its cost"


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
    for split, counts in (("val", val), ("the hold-out", holdout)):
        missing = ", ".join(classes[k] for k in np.flatnonzero(counts.sum((0, 2)) == 0).tolist())
        if missing:
            kept = f", and rules with weights per class keep the plainer rule's for {missing}" if split == "val" else ""
            said.append(f"no image of {split} has {missing}: its mIoU is the mean over the other classes{kept}")
    return said


def not_converged(taken: str, unconverged: Collection[str], max_sweeps: int) -> str | None:
    """What has to be known of a rule whose search for weights was cut off."""
    if taken not in unconverged:
        return None
    return (
        f"the search for the weights of {taken} still gained after {max_sweeps} sweeps, the most that it may take; "
        "better ones are found with a larger ensemble.max_sweeps"
    )


def never_predicted(weights: NDArray[np.float32], classes: Sequence[str]) -> str | None:
    """Names the classes whose weights (M,K) sum to zero: such a class has the score 0 everywhere and wins nothing."""
    silent = [name for name, column in zip(classes, weights.T, strict=True) if not column.any()]
    if not silent:
        return None
    return (
        f"the fitted weights of {', '.join(silent)} are 0 for every member: what ships never predicts it; look at its "
        "IoU, and at how many pixels of val have it"
    )
