"""The report's tables as plain rows: trials, members, classes, the forest plot of gains, and how numbers are written.

Enters: rows of trials.csv and parts of ensemble.json. Leaves: values that the template only has to place.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

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
    """Bars a rule, by rule name, and where zero lies."""

    zero: float
    bars: dict[str, Bar]


def trial_columns(trials: Sequence[Mapping[str, Any]]) -> list[Column]:
    """The columns that hold anything at all."""
    names = list(dict.fromkeys(key for row in trials for key in row))
    names = [name for name in names if any(_filled(row.get(name)) for row in trials)]
    leading = [name for name in LEADING_COLUMNS if name in names]
    last = [name for name in ("error",) if name in names]
    middle = [name for name in names if name not in leading and name not in last]
    return [_column(name, [row.get(name) for row in trials]) for name in (*leading, *middle, *last)]


def uses(rule: Mapping[str, Any]) -> str:
    """'3 members, 7 views': a vote of one member is that member, whatever the rule is called."""
    used = [len(views) for views, row in zip(rule["views"], rule["weights"], strict=True) if any(row)]
    words = (f"{num} {what}{'s' * (num != 1)}" for num, what in ((len(used), "member"), (sum(used), "view")))
    return ", ".join(words)


def member_rows(ensemble: Mapping[str, Any], rule: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A row a candidate with its views and its share of the rule's weight (mean over classes)."""
    weights = np.asarray(rule["weights"], dtype=float)  # (M,K)
    share = weights.mean(axis=1) / max(float(weights.mean(axis=1).sum()), 1e-12)
    rows = [
        {**member, "share": float(share[m]), "views": rule["views"][m] if share[m] > 0 else []}
        for m, member in enumerate(ensemble["members"])
    ]
    return sorted(rows, key=lambda row: -row["share"])


def class_rows(
    classes: Sequence[str], counts: NDArray[np.int64], single: Mapping[str, Any], shipped: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """A row a class: its share of the labelled hold-out pixels, and both rules' IoU there."""
    pixels = counts.sum(axis=1)
    return [
        {
            "name": name,
            "share": float(pixels[k]) / max(int(pixels.sum()), 1),
            "single": _class_score(single["holdout"], k),
            "shipped": _class_score(shipped["holdout"], k),
        }
        for k, name in enumerate(classes)
    ]


def forest(rules: Sequence[Mapping[str, Any]], key: str) -> Forest:
    """Put every rule's gain over the single model (`gain_holdout` or `gain_crossfit`) on one axis."""
    gains = {
        rule["name"]: rule[key]
        for rule in rules
        if rule["name"] != "best_single" and rule[key] and rule[key]["low"] is not None
    }  # without an interval where no resample had a score
    low: float = min([0.0, *(gain["low"] for gain in gains.values())])
    high: float = max([0.0, *(gain["high"] for gain in gains.values())])
    width = (high - low) or 1.0

    def place(value: float) -> float:
        return 4 + 92 * (value - low) / width

    bars = {
        name: Bar(place(g["low"]), place(g["gain"]), place(g["high"]), g["low"] > 0 or g["high"] < 0)
        for name, g in gains.items()
    }
    return Forest(place(0.0), bars)


def write_score(value: float | None) -> str:
    """0.41234 -> '0.412'; a dash where there is none."""
    return DASH if value is None or math.isnan(value) else f"{value:.3f}"


def write_interval(score: Mapping[str, Any]) -> str:
    """The 95% interval: '0.391 to 0.433'."""
    return f"{write_score(score['low'])} to {write_score(score['high'])}"


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


def write_moment(iso: str) -> str:
    """'2026-05-01T12:03:44+00:00' -> '2026-05-01 12:03 UTC'."""
    moment = datetime.fromisoformat(iso)
    return f"{moment:%Y-%m-%d %H:%M} {moment.tzname() or ''}".strip()


def write_duration(started: str, ended: str) -> str:
    """Between two ISO moments: '2 h 05 min', '4 min 10 s'."""
    seconds = max(0, round((datetime.fromisoformat(ended) - datetime.fromisoformat(started)).total_seconds()))
    if seconds >= 3600:
        return f"{seconds // 3600} h {seconds % 3600 // 60:02d} min"
    return f"{seconds // 60} min {seconds % 60:02d} s" if seconds >= 60 else f"{seconds} s"


def _class_score(score: Mapping[str, Any], k: int) -> str:
    if score["iou"][k] is None:
        return DASH
    interval = {"low": score["iou_low"][k], "high": score["iou_high"][k]}
    return f"{write_score(score['iou'][k])} [{write_interval(interval)}]"


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
