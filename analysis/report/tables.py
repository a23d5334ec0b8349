"""The report's tables as plain rows, which the template only has to place: members, classes, the forest plot of gains,
and how numbers are written."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np
from numpy.typing import NDArray

from analysis.ensembling.result import EnsembleResult, FittedOn, MemberResult, RuleResult, Score

MINUS, DASH = "\N{MINUS SIGN}", "\N{EN DASH}"


@dataclass(frozen=True)
class Bar:
    """A gain and its interval on the forest plot's 0..100 axis."""

    low: float
    gain: float
    high: float
    certain: bool  # the interval leaves out 0


@dataclass(frozen=True)
class Forest:
    """A bar per rule, by its name, and where zero lies."""

    zero: float
    bars: dict[str, Bar]


@dataclass(frozen=True)
class MemberRow:
    """A candidate, its share of the shipped rule's weight (mean over classes), and the views that the rule uses."""

    member: MemberResult
    share: float
    views: tuple[str, ...]

    @property
    def curve(self) -> str:
        """The trial whose learning curve stands for the member: of a soup, that of its best ingredient."""
        ingredients = self.member.ingredients
        return ingredients[0].split()[0] if ingredients else self.member.trial  # "00003 epoch 8"


@dataclass(frozen=True)
class ClassRow:
    """A class: its share of the labelled hold-out pixels, and its IoU under the single model and the shipped rule."""

    name: str
    share: float
    single: str
    shipped: str
    single_iou: float | None
    iou: float | None  # under what ships


def uses(rule: RuleResult) -> str:
    """'3 members, 7 views': a vote of one member is that member, whatever the rule is called."""
    used = [len(views) for views in rule.fitted.of_used().views]
    words = (f"{num} {what}{'s' * (num != 1)}" for num, what in ((len(used), "member"), (sum(used), "view")))
    return ", ".join(words)


def member_rows(ensemble: EnsembleResult) -> list[MemberRow]:
    """A row per candidate, the one with most weight first."""
    rule = ensemble.shipped
    weights = np.asarray(rule.weights, dtype=float)  # (M,K)
    share = weights.mean(axis=1) / max(float(weights.mean(axis=1).sum()), 1e-12)
    rows = [
        MemberRow(member, float(share[m]), rule.views[m] if share[m] > 0 else ())
        for m, member in enumerate(ensemble.members)
    ]
    return sorted(rows, key=lambda row: -row.share)


def class_rows(
    classes: Sequence[str], counts: NDArray[np.int64], single: RuleResult, shipped: RuleResult
) -> list[ClassRow]:
    """A row per class; counts (K,K) are the hold-out's."""
    pixels = counts.sum(axis=1)
    return [
        ClassRow(
            name=name,
            share=float(pixels[k]) / max(int(pixels.sum()), 1),
            single=class_score(single.holdout, k),
            shipped=class_score(shipped.holdout, k),
            single_iou=single.holdout.iou[k],
            iou=shipped.holdout.iou[k],
        )
        for k, name in enumerate(classes)
    ]


def forest(rules: Sequence[RuleResult]) -> Forest:
    """Put every rule's gain over the single model on the hold-out on one axis."""
    gains = {
        rule.name: (gain.low, gain.gain, gain.high)
        for rule in rules
        if rule.name != "best_single" and (gain := rule.gain_holdout).low is not None and gain.high is not None
    }  # without an interval where no resample had a score
    low = min([0.0, *(bounds[0] for bounds in gains.values())])
    high = max([0.0, *(bounds[2] for bounds in gains.values())])
    width = (high - low) or 1.0

    def place(value: float) -> float:
        return 4 + 92 * (value - low) / width

    bars = {
        name: Bar(place(below), place(gain), place(above), certain=below > 0 or above < 0)
        for name, (below, gain, above) in gains.items()
    }
    return Forest(place(0.0), bars)


def importance_rows(
    shares: Mapping[str, float], top: Mapping[str, float]
) -> list[tuple[str, float | None, float | None]]:
    """A parameter, its share over all trials and in the best ones; None where it was not weighed."""
    names = sorted({**shares, **top}, key=lambda name: (-shares.get(name, 0.0), -top.get(name, 0.0)))
    return [(name, shares.get(name), top.get(name)) for name in names]


def write_score(value: float | None) -> str:
    """0.41234 -> '0.412'; a dash where there is none."""
    return DASH if value is None or math.isnan(value) else f"{value:.3f}"


def write_interval(score: Score) -> str:
    """The 95% interval: '0.391 to 0.433'."""
    return _write_bounds(score.low, score.high)


def class_score(score: Score, k: int) -> str:
    """'0.412 [0.391 to 0.433]'; a dash where the class has none."""
    if score.iou[k] is None:
        return DASH
    return f"{write_score(score.iou[k])} [{_write_bounds(score.iou_low[k], score.iou_high[k])}]"


def write_gain(value: float | None) -> str:
    """0.0123 -> '+0.012', with a real minus sign below zero."""
    if value is None or math.isnan(value):
        return DASH
    rounded = round(value, 3) + 0.0  # no negative zero
    return f"{'+' if rounded > 0 else MINUS if rounded < 0 else ''}{abs(rounded):.3f}"


def write_share(value: float) -> str:
    """0.1234 -> '12.3%', 0.0004 -> '<0.1%'; a dash for NaN."""
    if math.isnan(value):
        return DASH
    return "<0.1%" if 0 < value < 0.0005 else f"{value:.1%}"


def write_fitted_on(fitted_on: FittedOn) -> str:
    """One sentence on the images that rules were fitted on."""
    if fitted_on.kind == "val":
        return f"Rules were fitted on the {fitted_on.images} images of val, which trials were compared on too."
    return (
        f"Rules were fitted out of fold on {fitted_on.images} images, all that are labelled outside the hold-out: each "
        f"predicted by models that never saw it ({fitted_on.folds} folds). A member is the mean of its fold models."
    )


def write_moment(iso: str) -> str:
    """'2026-05-01T12:03:44+00:00' -> '2026-05-01 12:03 UTC'."""
    moment = datetime.fromisoformat(iso)
    return f"{moment:%Y-%m-%d %H:%M} {moment.tzname() or ''}".strip()


def write_duration(started: str, ended: str) -> str:
    """Between two ISO moments: '2 h 05 min', '4 min 10 s'."""
    return write_seconds((datetime.fromisoformat(ended) - datetime.fromisoformat(started)).total_seconds())


def write_seconds(wall_s: float) -> str:
    """'2 h 05 min', '4 min 10 s', '12 s'."""
    seconds = max(0, round(wall_s))
    if seconds >= 3600:
        return f"{seconds // 3600} h {seconds % 3600 // 60:02d} min"
    return f"{seconds // 60} min {seconds % 60:02d} s" if seconds >= 60 else f"{seconds} s"


def _write_bounds(low: float | None, high: float | None) -> str:
    return f"{write_score(low)} to {write_score(high)}"
