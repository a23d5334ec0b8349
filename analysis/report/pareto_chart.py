"""The chart of mIoU against the cost per image: single models, the Pareto front, what ships, the budget."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import plotly.graph_objects as go

from analysis.ensembling.result import EnsembleResult, ParetoPoint, RuleResult
from analysis.report.charts import GREY, axis_title, hue, plain_layout, safe_json

UNITS = {"ms": "milliseconds per image", "views": "views per image"}


@dataclass(frozen=True)
class Mark:
    """A point of the chart."""

    text: str
    cost: float
    miou: float | None


def pareto_figure(ensemble: EnsembleResult, labels: Mapping[str, str]) -> str:
    """A plotly figure as JSON text that is safe inside a script element; `labels` are the rules' names for readers."""
    unit, points, budget = ensemble.cost_unit, ensemble.pareto, ensemble.latency_budget_ms
    figure = go.Figure(layout=plain_layout(height=400))
    singles = [_of_point(point) for point in points if sum(len(views) for views in point.views) == 1]
    figure.add_trace(_marks("One model, one view", singles, unit, GREY, "circle-open", "markers"))
    front = [_of_point(point) for point in points if point.front]
    figure.add_trace(_marks("Best for its cost", front, unit, hue(0), "circle", "lines+markers"))
    for name, ships, colour, symbol in (
        ("Other rules", False, hue(1), "diamond"),
        ("What ships", True, hue(4), "star"),
    ):
        shown = [
            _of_rule(rule, labels[rule.name])
            for rule in ensemble.rules
            if (rule.name == ensemble.verdict.rule) == ships
        ]
        figure.add_trace(_marks(name, shown, unit, colour, symbol, "markers"))
    if budget is not None:
        figure.add_vline(x=budget, line={"color": GREY, "width": 1, "dash": "dot"})
        figure.add_annotation(
            x=budget, y=1, yref="paper", yanchor="bottom", text="budget", showarrow=False,
            font={"size": 11},
        )  # fmt: skip
    figure.update_xaxes(title=axis_title(UNITS[unit]), rangemode="tozero")
    figure.update_yaxes(title=axis_title("validation mIoU, cross-fitted"))
    figure.update_layout(legend={"orientation": "h", "y": -0.22, "yanchor": "top", "x": 0})
    return safe_json(figure)


def describe(point: ParetoPoint) -> str:
    """'00002 (s1.00-none, s1.25-none), 00006 (s1.00-none)'."""
    pairs = zip(point.members, point.views, strict=True)
    return ", ".join(f"{trial} ({', '.join(views)})" for trial, views in pairs)


def _of_point(point: ParetoPoint) -> Mark:
    return Mark(describe(point), point.ms, point.miou_crossfit)


def _of_rule(rule: RuleResult, label: str) -> Mark:
    return Mark(label, rule.cost, rule.val_crossfit.miou)


def _marks(name: str, marks: Sequence[Mark], unit: str, colour: str, symbol: str, mode: str) -> go.Scatter:
    return go.Scatter(
        x=[mark.cost for mark in marks],
        y=[mark.miou for mark in marks],
        text=[html.escape(mark.text).replace("), ", ")<br>") for mark in marks],
        name=name,
        mode=mode,
        line={"color": colour, "width": 2, "shape": "hv"},
        marker={"color": colour, "size": 13 if symbol == "star" else 8, "symbol": symbol},
        hovertemplate=f"%{{text}}<br>mIoU %{{y:.3f}}, %{{x:.3g}} {unit}<extra></extra>",
    )
