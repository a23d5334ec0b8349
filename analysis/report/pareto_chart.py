"""mIoU against what an image costs: single models, the ensembles that none beats in both, what ships, the budget.

Enters: parts of ensemble.json. Leaves: a plotly figure as JSON text that is safe inside a script element.
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from analysis.report.charts import GREY, axis_title, hue, plain_layout, safe_json

UNITS = {"ms": "milliseconds an image", "views": "views an image"}
Row = Mapping[str, Any]


def pareto_figure(ensemble: Mapping[str, Any], rules: Sequence[Row], shipped: str) -> str:
    """`rules` are those of ensemble.json with their labels, `shipped` the name of the one that ships."""
    unit, rows = ensemble["cost_unit"], ensemble["pareto"]
    figure = go.Figure(layout=plain_layout(height=400))
    singles = [row for row in rows if sum(len(views) for views in row["views"]) == 1]
    figure.add_trace(_marks("One model, one view", singles, unit, GREY, "circle-open", "markers"))
    front = [row for row in rows if row["front"]]
    figure.add_trace(_marks("Best for its cost", front, unit, hue(0), "circle", "lines+markers"))
    for name, ships, colour, symbol in (
        ("Other rules", False, hue(1), "diamond"),
        ("What ships", True, hue(4), "star"),
    ):
        shown = [_of_rule(rule) for rule in rules if (rule["name"] == shipped) == ships]
        figure.add_trace(_marks(name, shown, unit, colour, symbol, "markers"))
    if ensemble["latency_budget_ms"] is not None:
        figure.add_vline(x=ensemble["latency_budget_ms"], line={"color": GREY, "width": 1, "dash": "dot"})
        figure.add_annotation(
            x=ensemble["latency_budget_ms"], y=1, yref="paper", yanchor="bottom", text="budget", showarrow=False,
            font={"size": 11},
        )  # fmt: skip
    figure.update_xaxes(title=axis_title(UNITS[unit]), rangemode="tozero")
    figure.update_yaxes(title=axis_title("validation mIoU, cross-fitted"))
    figure.update_layout(legend={"orientation": "h", "y": -0.22, "yanchor": "top", "x": 0})
    return safe_json(figure)


def describe(row: Row) -> str:
    """'00002 (s1.00-none, s1.25-none), 00006 (s1.00-none)'."""
    pairs = zip(row["members"], row["views"], strict=True)
    return ", ".join(f"{trial} ({', '.join(views)})" for trial, views in pairs)


def _of_rule(rule: Row) -> Row:
    return {"what": rule["label"], "ms": rule["cost"], "miou_crossfit": rule["val_crossfit"]["miou"]}


def _marks(name: str, rows: Sequence[Row], unit: str, colour: str, symbol: str, mode: str) -> go.Scatter:
    return go.Scatter(
        x=[row["ms"] for row in rows],
        y=[row["miou_crossfit"] for row in rows],
        text=[html.escape(row.get("what") or describe(row)).replace("), ", ")<br>") for row in rows],
        name=name,
        mode=mode,
        line={"color": colour, "width": 2, "shape": "hv"},
        marker={"color": colour, "size": 13 if symbol == "star" else 8, "symbol": symbol},
        hovertemplate=f"%{{text}}<br>mIoU %{{y:.3f}}, %{{x:.3g}} {unit}<extra></extra>",
    )
