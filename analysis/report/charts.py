"""The report's plotly figures, as JSON text that is safe inside a script element.

Colours that must follow the light or dark theme (text, grid, heat map) are set by report.js; the others have a contrast
of 3:1 on both grounds.
"""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from analysis.ensembling.result import RuleResult, Score

GREY = "#7d8590"
# Okabe and Ito's hues, darkened or lightened until they hold on white and on near-black.
HUES = ("#0077bb", "#c77700", "#009e73", "#c2699c", "#d55e00", "#7a5fd0", "#8a7a00")
SYMBOLS = ("circle", "diamond", "square", "triangle-up", "cross", "x", "star", "pentagon")
MAX_CURVES = 64  # more lines than this cannot be distinguished
MAX_LABELLED_CLASSES = 16  # numbers in the cells of a larger matrix cannot be read
MAX_NAMED_CLASSES = 40  # nor names beside its rows: they appear under the pointer

CurveRows = Sequence[Mapping[str, Any]]


def safe_json(figure: go.Figure) -> str:
    """The figure as JSON in which no markup can begin."""
    text: str = figure.to_json()
    return text.replace("<", r"\u003c").replace(">", r"\u003e").replace("&", r"\u0026")


def drawn_trials(curves: Mapping[str, CurveRows], highlight: Sequence[str]) -> list[str]:
    """Which trials' curves are drawn: the highlighted ones last, so that they lie on top; at most MAX_CURVES."""
    marked = list(dict.fromkeys(trial for trial in highlight if trial in curves))[:MAX_CURVES]
    best = {
        trial: max((v for v in (_number(row, "val/miou") for row in rows) if v == v), default=-1.0)
        for trial, rows in curves.items()
    }  # v == v leaves NaN out
    others = sorted((trial for trial in curves if trial not in marked), key=lambda t: best[t], reverse=True)
    return [*reversed(others[: MAX_CURVES - len(marked)]), *reversed(marked)]


def curves_figure(
    curves: Mapping[str, CurveRows],
    axis: str,
    metrics: Mapping[str, str],
    rungs: Sequence[int],
    highlight: Sequence[str],
) -> str:
    """Metrics over epochs, one line per trial and metric. `metrics` maps a metric's key to its dash style."""
    figure = go.Figure(layout=plain_layout(height=380))
    for trial in drawn_trials(curves, highlight):
        rank = highlight.index(trial) if trial in highlight else None
        for position, (metric, dash) in enumerate(metrics.items()):
            legend = rank is not None and position == 0
            figure.add_trace(_curve(trial, curves[trial], metric, dash, rank, legend))
    last_epoch = max((int(row["epoch"]) for rows in curves.values() for row in rows), default=1)
    for rung in sorted(r for r in rungs if r <= last_epoch):
        figure.add_vline(x=rung, line={"color": GREY, "width": 1, "dash": "dot"})
        figure.add_annotation(
            x=rung, y=1, yref="paper", yanchor="bottom", text=f"rung {rung}", showarrow=False, font={"size": 11}
        )
    figure.update_xaxes(title=axis_title("epoch"), rangemode="tozero")
    figure.update_yaxes(title=axis_title(axis))
    figure.update_layout(legend={"orientation": "h", "y": -0.22, "yanchor": "top", "traceorder": "reversed"})
    return safe_json(figure)


def class_iou_figure(
    classes: Sequence[str], rules: Sequence[RuleResult], labels: Mapping[str, str], shown: Sequence[str]
) -> str:
    """Hold-out IoU by class with 95% intervals, a mark per rule. Rules that are not `shown` wait in the legend.

    `shown` begins with what ships, so that it always has the first hue.
    """
    hues = {name: hue(rank) for rank, name in enumerate([*shown, *(r.name for r in rules if r.name not in shown)])}
    hues["best_single"] = GREY
    row_px = (26 if len(classes) <= MAX_NAMED_CLASSES else 10) + 8 * len(shown)
    height = 130 + max(len(classes), 3) * row_px
    figure = go.Figure(layout=plain_layout(height=height))
    offsets = np.linspace(-0.28, 0.28, len(rules)) if len(rules) > 1 else np.zeros(1)
    if 1 < len(shown) < len(rules):
        order = [rule.name for rule in rules if rule.name in shown]
        spread = dict(zip(order, np.linspace(-0.22, 0.22, len(order)), strict=True))
        offsets = np.array([spread.get(r.name, o) for r, o in zip(rules, offsets, strict=True)])
    for position, (rule, offset) in enumerate(zip(rules, offsets, strict=True)):
        visible = True if rule.name in shown else "legendonly"
        symbol = SYMBOLS[position % len(SYMBOLS)]
        figure.add_trace(
            _class_marks(classes, rule.holdout, labels[rule.name], float(offset), hues[rule.name], symbol, visible)
        )
    ticks = list(range(len(classes)))
    figure.update_yaxes(
        tickvals=ticks, ticktext=[html.escape(shorten(c)) for c in classes], range=[len(classes) - 0.5, -0.5],
        showgrid=True, zeroline=False,
    )  # fmt: skip
    figure.update_xaxes(title="IoU on the hold-out", range=[0, 1])
    figure.update_layout(legend={"orientation": "h", "y": 1.0, "yanchor": "bottom", "x": 0})
    return safe_json(figure)


def confusion_figure(classes: Sequence[str], counts: np.ndarray[Any, Any]) -> str:
    """Row-normalised confusion matrix (K,K) [true, predicted], the counts in the hover text."""
    total = counts.sum(axis=1, keepdims=True)
    share = np.divide(counts, total, out=np.zeros(counts.shape), where=total > 0)  # (K,K)
    names = [html.escape(shorten(name)) for name in classes]
    named = len(classes) <= MAX_NAMED_CLASSES
    size = 150 + max(len(classes) * 34, 200) if len(classes) <= MAX_LABELLED_CLASSES else 700
    figure = go.Figure(layout=plain_layout(height=size))
    figure.add_trace(go.Heatmap(
        z=share.round(5).tolist(), customdata=counts.tolist(), zmin=0, zmax=1, xgap=int(named), ygap=int(named),
        colorbar={"thickness": 10, "tickformat": ".0%", "outlinewidth": 0},
        text=[[f"{value:.0%}" if value >= 0.005 else "" for value in row] for row in share.tolist()],
        texttemplate="%{text}" if len(classes) <= MAX_LABELLED_CLASSES else None, textfont={"size": 11},
        hovertemplate="true: %{y}<br>predicted: %{x}<br>%{z:.2%} of the true pixels"
        "<br>%{customdata:,} pixels<extra></extra>",
    ))  # fmt: skip
    ticks = list(range(len(classes)))
    figure.data[0].x = ticks
    figure.data[0].y = ticks
    figure.update_xaxes(tickvals=ticks, ticktext=names, showticklabels=named, showgrid=False)
    figure.update_yaxes(tickvals=ticks, ticktext=names, showticklabels=named, showgrid=False)
    figure.update_xaxes(title=axis_title("predicted"), tickangle=-45)
    figure.update_yaxes(title=axis_title("true"), autorange="reversed")
    return safe_json(figure)


def shorten(name: str, limit: int = 24) -> str:
    """A class or trial name that fits beside an axis."""
    return name if len(name) <= limit else name[: limit - 1] + "…"


def hue(position: int | None) -> str:
    """The colour of the n-th highlighted series; grey for those that are not."""
    return GREY if position is None else HUES[position % len(HUES)]


def _curve(trial: str, rows: CurveRows, metric: str, dash: str, rank: int | None, legend: bool) -> go.Scatter:
    values = [_number(row, metric) for row in rows]
    return go.Scatter(
        x=[int(row["epoch"]) for row in rows],
        y=[None if math.isnan(value) else value for value in values],
        name=html.escape(shorten(trial)),
        legendgroup=html.escape(trial),
        showlegend=legend,
        mode="lines+markers" if len(rows) == 1 else "lines",
        line={"color": hue(rank), "width": 1 if rank is None else 2.4, "dash": dash},
        opacity=0.55 if rank is None else 1.0,
        hovertemplate=f"{html.escape(trial)}<br>epoch %{{x}}<br>{metric} %{{y:.4f}}<extra></extra>",
    )


def _class_marks(
    classes: Sequence[str],
    score: Score,
    label: str,
    offset: float,
    colour: str,
    symbol: str,
    visible: bool | str,
) -> go.Scatter:
    scored = enumerate(zip(score.iou, score.iou_low, score.iou_high, strict=True))
    marks = [
        (k, iou, iou if low is None else low, iou if high is None else high)
        for k, (iou, low, high) in scored
        if iou is not None
    ]
    names = [html.escape(classes[k]) for k, *_ in marks]
    return go.Scatter(
        x=[iou for _, iou, _, _ in marks],
        y=[k + offset for k, *_ in marks],
        customdata=[(name, low, high) for name, (_, _, low, high) in zip(names, marks, strict=True)],
        error_x={
            "type": "data", "symmetric": False, "thickness": 1.5, "width": 3, "color": colour,
            "array": [high - iou for _, iou, _, high in marks],
            "arrayminus": [iou - low for _, iou, low, _ in marks],
        },
        name=html.escape(label),
        mode="markers",
        visible=visible,
        marker={"color": colour, "size": 8, "symbol": symbol},
        hovertemplate="%{customdata[0]}<br>IoU %{x:.3f} [%{customdata[1]:.3f}, %{customdata[2]:.3f}]",
    )  # fmt: skip


def plain_layout(height: int) -> go.Layout:
    axis = {"automargin": True, "showline": False, "zeroline": False, "ticks": ""}
    return go.Layout(
        template="none", height=height, margin={"l": 8, "r": 8, "t": 28, "b": 8}, hovermode="closest",
        xaxis=axis, yaxis=axis, paper_bgcolor="rgba(0,0,0,0)", plot_bgcolor="rgba(0,0,0,0)", dragmode=False,
    )  # fmt: skip


def axis_title(text: str) -> dict[str, Any]:
    return {"text": text, "standoff": 10}


def _number(row: Mapping[str, Any], key: str) -> float:
    """A metric of an epoch's row; NaN where the trial never reported it, and for an epoch in which it diverged."""
    value = row.get(key)
    missing = value in (None, "") or float(row.get("diverged") or 0) > 0
    return math.nan if missing else float(str(value))
