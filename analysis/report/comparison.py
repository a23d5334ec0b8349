"""Two runs on one page: which is better and how surely, class by class, and what they did differently."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import plotly.graph_objects as go

from analysis.ensembling.result import EnsembleResult, Gain
from analysis.ensembling.verdict import signed
from analysis.report import charts, html, tables
from analysis.report.leaderboard import FamilyRow
from analysis.report.origin import Origin
from analysis.report.page import rule_label

ABSENT = "–"


@dataclass(frozen=True)
class Side:
    """One of the two runs, as its files have it."""

    name: str
    started: str  # ISO 8601
    space: str
    ensemble: EnsembleResult
    origin: Origin
    families: Sequence[FamilyRow]
    num_trials: int
    epochs: int
    best_val: float | None  # of its best trial
    progress: Sequence[tuple[float, float]]  # device hours spent, best val mIoU so far
    settings: Mapping[str, str]  # of the space, by dotted key
    recipe: Mapping[str, str]  # of the strongest member of what ships, by dotted key

    @property
    def device_h(self) -> float:
        return sum(row.device_s for row in self.families) / 3600


@dataclass(frozen=True)
class Paired:
    """What B gains over A on the same images, or why that cannot be told."""

    gain: Gain | None = None
    by_class: Mapping[int, Gain] = field(default_factory=dict)
    num_images: int = 0
    why_not: str = ""


@dataclass(frozen=True)
class Comparison:
    """Two runs, paired on the hold-out, and on the images that rules were fitted on, cross-fitted."""

    a: Side
    b: Side
    holdout: Paired
    crossfit: Paired


def write_comparison(out: Path, compared: Comparison) -> None:
    """Write the page."""
    a, b = compared.a, compared.b
    values = {
        "title": f"{a.name} and {b.name}",
        "headline": headline(compared),
        "a": a,
        "b": b,
        "paired": [
            ("Hold-out", compared.holdout, a.ensemble.shipped.holdout, b.ensemble.shipped.holdout),
            ("Cross-fitted", compared.crossfit, a.ensemble.shipped.val_crossfit, b.ensemble.shipped.val_crossfit),
        ],
        "rows": _rows(a, b),
        "classes": _class_rows(compared),
        "rules": _rule_rows(a, b),
        "families": _family_rows(a, b),
        "settings": differing(a.settings, b.settings),
        "recipe": differing(a.recipe, b.recipe),
        "versions": differing(a.origin.versions or {}, b.origin.versions or {}),
    }
    filters: dict[str, Callable[..., Any]] = {
        "score": tables.write_score,
        "gain": tables.write_gain,
        "interval": tables.write_interval,
    }
    html.write_page(out, "compare.html.j2", values, _figures(a, b), filters)


def headline(compared: Comparison) -> str:
    """Which of the two is better on the hold-out, or that it cannot be told."""
    a, b, paired = compared.a, compared.b, compared.holdout
    if paired.gain is None:
        scores = (tables.write_score(side.ensemble.shipped.holdout.miou) for side in (a, b))
        return f"{a.name} has {next(scores)} mIoU on its hold-out, {b.name} {next(scores)}: {paired.why_not}"
    on = f"{signed(paired.gain)} on the same {paired.num_images} hold-out images"
    if paired.gain.is_above_zero:
        return f"{b.name} is better than {a.name}: {on}"
    if paired.gain.is_below_zero:
        return f"{a.name} is better than {b.name}, which has {on}"
    return f"{a.name} and {b.name} cannot be told apart: {b.name} has {on}, an interval that holds 0"


def differing(a: Mapping[str, str], b: Mapping[str, str]) -> list[tuple[str, str, str]]:
    """The keys whose values differ, in the order of A and then of B."""
    keys = list(dict.fromkeys([*a, *b]))
    return [(key, a.get(key, ABSENT), b.get(key, ABSENT)) for key in keys if a.get(key) != b.get(key)]


def _rows(a: Side, b: Side) -> list[tuple[str, str, str]]:
    def of(side: Side) -> dict[str, str]:
        ensemble, shipped = side.ensemble, side.ensemble.shipped
        prints = side.origin.fingerprints or {}
        return {
            "What ships": f"{rule_label(shipped.name, ensemble)}, {tables.uses(shipped)}",
            "Verdict": ensemble.verdict.sentence,
            "Best trial's val mIoU": tables.write_score(side.best_val),
            "Rules fitted on": f"{ensemble.fitted_on.images} images, {ensemble.fitted_on.kind.replace('_', ' ')}",
            "Cost per image": f"{shipped.cost:.3g} {ensemble.cost_unit}",
            "Hold-out images": f"{ensemble.num_holdout}",
            "Space": side.space,
            "Trials": f"{side.num_trials}",
            "Epochs": f"{side.epochs}",
            "Device hours of trials": f"{side.device_h:.2f}",
            "Started": tables.write_moment(side.started),
            "Seed": f"{side.origin.seed}",
            "Commit": side.origin.commit[:12] + ("+" if side.origin.commit.endswith("+") else "") or ABSENT,
            "Data": prints.get("data", ABSENT),
            "Split": prints.get("split", ABSENT),
        }

    left, right = of(a), of(b)
    return [(key, left[key], right[key]) for key in left]


def _class_rows(compared: Comparison) -> list[dict[str, Any]]:
    a, b = (side.ensemble.shipped.holdout for side in (compared.a, compared.b))
    return [
        {
            "name": name,
            "a": tables.class_score(a, k),
            "b": tables.class_score(b, k),
            "ious": (a.iou[k], b.iou[k]),
            "gain": compared.holdout.by_class.get(k),
        }
        for k, name in enumerate(compared.a.ensemble.classes)
    ]


def _rule_rows(a: Side, b: Side) -> list[tuple[str, Any, Any]]:
    """Rule, and its result in each run; None where a run does not have it."""
    left, right = ({rule_label(rule.name, side.ensemble): rule for rule in side.ensemble.rules} for side in (a, b))
    return [(name, left.get(name), right.get(name)) for name in dict.fromkeys([*left, *right])]


def _family_rows(a: Side, b: Side) -> list[tuple[str, FamilyRow | None, FamilyRow | None]]:
    left, right = ({row.family: row for row in side.families} for side in (a, b))
    return [(name, left.get(name), right.get(name)) for name in dict.fromkeys([*left, *right])]


def _figures(a: Side, b: Side) -> dict[str, str]:
    rules = [side.ensemble.shipped.model_copy(update={"name": letter}) for letter, side in (("a", a), ("b", b))]
    labels = {"a": f"A: {a.name}", "b": f"B: {b.name}"}
    figures = {"classes": charts.class_iou_figure(a.ensemble.classes, rules, labels, ["a", "b"])}
    if a.progress and b.progress:
        figures["progress"] = _progress_figure(a, b)
    return figures


def _progress_figure(a: Side, b: Side) -> str:
    figure = go.Figure(layout=charts.plain_layout(height=320))
    for rank, (letter, side) in enumerate((("A", a), ("B", b))):
        figure.add_trace(go.Scatter(
            x=[hours for hours, _ in side.progress], y=[score for _, score in side.progress],
            name=f"{letter}: {charts.shorten(side.name)}", mode="lines+markers",
            line={"shape": "hv", "width": 2.4, "color": charts.hue(rank), "dash": ("solid", "dash")[rank]},
            marker={"size": 6, "symbol": charts.SYMBOLS[rank]},
            hovertemplate="%{x:.3f} device hours<br>best val mIoU %{y:.4f}<extra></extra>",
        ))  # fmt: skip
    figure.update_xaxes(title=charts.axis_title("device hours of trials, in the order of their numbers"))
    figure.update_yaxes(title=charts.axis_title("best val mIoU so far"))
    figure.update_layout(legend={"orientation": "h", "y": 1.0, "yanchor": "bottom", "x": 0})
    return charts.safe_json(figure)
