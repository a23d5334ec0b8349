"""The report's tables as plain rows, which the template only has to place: trials, members, classes, the forest plot of
gains, and how numbers are written."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analysis.ensembling.result import EnsembleResult, FittedOn, MemberResult, RuleResult, Score

# The columns that lead the table, in this order; the others follow as they come, the error last.
LEADING_COLUMNS = ("trial", "state", "best mIoU", "best epoch", "epochs", "backbone", "head")
NAME_COLUMNS = ("trial", "recipe", "state", "error")  # never numbers, even where all hashes look like some
MINUS, DASH = "\N{MINUS SIGN}", "\N{EN DASH}"


@dataclass(frozen=True)
class Column:
    """A column of the trial table; a cell is (text, sort key)."""

    name: str
    numeric: bool
    cells: list[tuple[str, str]]


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


def trial_columns(trials: Sequence[Mapping[str, Any]]) -> list[Column]:
    """The columns that hold anything at all, but for parameters that repeat a leading one (model/backbone)."""
    names = list(dict.fromkeys(key for row in trials for key in row))
    names = [name for name in names if any(_filled(row.get(name)) for row in trials)]
    leading = [name for name in LEADING_COLUMNS if name in names]
    last = [name for name in ("error",) if name in names]
    told = [[row.get(name) for row in trials] for name in leading]
    middle = [name for name in names if name not in leading and name not in last]
    middle = [name for name in middle if "/" not in name or [row.get(name) for row in trials] not in told]
    return [_column(name, [row.get(name) for row in trials]) for name in (*leading, *middle, *last)]


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


def _column(name: str, values: Sequence[Any]) -> Column:
    numbers = [_as_number(value) for value in values]
    numeric = name not in NAME_COLUMNS and all(
        number is not None or not _filled(value) for number, value in zip(numbers, values, strict=True)
    )
    if not numeric:
        return Column(name, False, [(str(v), str(v)) if _filled(v) else ("", "") for v in values])
    return Column(name, True, [("", "") if n is None else (_write_number(n), repr(n)) for n in numbers])


def _write_number(value: float) -> str:
    if value == int(value) and abs(value) < 1e9:
        return str(int(value))
    return f"{value:.2e}" if abs(value) < 1e-3 or abs(value) >= 1e6 else f"{value:.4g}"


def _as_number(value: Any) -> float | None:
    if isinstance(value, bool) or not _filled(value):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def _filled(value: Any) -> bool:
    return value is not None and value != "" and not (isinstance(value, float) and math.isnan(value))
