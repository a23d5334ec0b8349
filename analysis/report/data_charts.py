"""The figures of the data pages (EDA, split), as JSON text that is safe inside a script element; see `charts`.

Heat maps and text take their colours from the page's theme.
"""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from analysis.report.charts import (
    MAX_LABELLED_CLASSES,
    MAX_NAMED_CLASSES,
    axis_title,
    hue,
    plain_layout,
    safe_json,
    shorten,
)

FEW_PX = 26  # of height a bar's row


def bars(
    names: Sequence[str],
    series: Mapping[str, Sequence[float | None]],
    axis: str,
    *,
    log: bool = False,
    unit: str = "",
    percent: bool = False,
) -> str:
    """Horizontal bars: one row per name, one colour per series. On a logarithmic axis counts begin at 1, shares at the
    power of ten below the least; a row without any has no bar."""
    row_px = max(FEW_PX if len(names) <= MAX_NAMED_CLASSES else 12, 13 * len(series))
    figure = go.Figure(layout=plain_layout(height=110 + row_px * max(len(names), 2)))
    ticks = list(range(len(names)))
    shown = ":.3%" if percent else ":,"
    for position, (label, values) in enumerate(series.items()):
        figure.add_trace(go.Bar(
            x=list(values), y=ticks, orientation="h", name=html.escape(label), marker={"color": hue(position)},
            customdata=[html.escape(name) for name in names],
            hovertemplate=f"%{{customdata}}<br>%{{x{shown}}}{unit}<extra>{html.escape(label)}</extra>",
        ))  # fmt: skip
    figure.update_layout(
        barmode="group", bargap=0.28, showlegend=len(series) > 1,
        legend={"orientation": "h", "y": 1.0, "yanchor": "bottom", "x": 0, "traceorder": "normal"},
    )  # fmt: skip
    figure.update_yaxes(
        tickvals=ticks if len(names) <= MAX_NAMED_CLASSES else [],
        ticktext=[html.escape(shorten(name)) for name in names],
        range=[len(names) - 0.5, -0.5],
        showgrid=False,
    )
    figure.update_xaxes(title=axis_title(axis), type="log" if log else "linear")
    if log:
        some = [value for values in series.values() for value in values if value] or [1.0]
        low = math.floor(math.log10(min(some)) - 0.01) if percent else 0
        figure.update_xaxes(dtick=1, range=[low, math.log10(max(some)) + 0.1])
    if percent:
        figure.update_xaxes(tickformat="~%")
    return safe_json(figure)


def heat(
    z: NDArray[np.floating], rows: Sequence[str], columns: Sequence[str], *, hover: str, labels: str | None = None
) -> str:
    """A heat map (R,C). `hover` is plotly's template; `labels` formats the cells' own numbers, e.g. '.0%'."""
    small = max(z.shape) <= MAX_LABELLED_CLASSES
    named_rows, named_columns = (len(names) <= MAX_NAMED_CLASSES for names in (rows, columns))
    figure = go.Figure(layout=plain_layout(height=150 + min(900, max(34 if small else 20, 8) * max(len(rows), 3))))
    text = [[format(v, labels) if v > 0 else "" for v in row] for row in z.tolist()] if labels and small else None
    figure.add_trace(go.Heatmap(
        z=z.round(5).tolist(), x=list(range(len(columns))), y=list(range(len(rows))), zmin=0,
        customdata=[[[html.escape(r), html.escape(c)] for c in columns] for r in rows],
        xgap=int(named_columns), ygap=int(named_rows), colorbar={"thickness": 10, "outlinewidth": 0},
        text=text, texttemplate="%{text}" if text else None, textfont={"size": 11}, hovertemplate=hover,
    ))  # fmt: skip
    names_r, names_c = ([html.escape(shorten(n)) for n in names] for names in (rows, columns))
    figure.update_xaxes(
        tickvals=list(range(len(columns))),
        ticktext=names_c,
        showticklabels=named_columns,
        showgrid=False,
        tickangle=-45,
    )
    figure.update_yaxes(
        tickvals=list(range(len(rows))),
        ticktext=names_r,
        showticklabels=named_rows,
        showgrid=False,
        autorange="reversed",
    )
    return safe_json(figure)


def intervals(names: Sequence[str], values: Sequence[tuple[float, float, float]], axis: str) -> str:
    """One mark with its interval per row, over a line at 0.5."""
    figure = go.Figure(layout=plain_layout(height=90 + FEW_PX * max(len(names), 2)))
    middle, low, high = (list(column) for column in zip(*values, strict=True))
    figure.add_trace(go.Scatter(
        x=middle, y=list(range(len(names))), mode="markers", marker={"color": hue(0), "size": 9}, showlegend=False,
        error_x={
            "type": "data", "symmetric": False, "thickness": 2, "width": 3, "color": hue(0),
            "array": [h - m for m, h in zip(middle, high, strict=True)],
            "arrayminus": [m - lo for m, lo in zip(middle, low, strict=True)],
        },
        customdata=[[html.escape(n), lo, h] for n, lo, h in zip(names, low, high, strict=True)],
        hovertemplate="%{customdata[0]}<br>AUC %{x:.3f} [%{customdata[1]:.3f}, %{customdata[2]:.3f}]<extra></extra>",
    ))  # fmt: skip
    figure.add_vline(x=0.5, line={"color": "#7d8590", "width": 1, "dash": "dot"})
    figure.update_yaxes(
        tickvals=list(range(len(names))),
        ticktext=[html.escape(shorten(name, 32)) for name in names],
        range=[len(names) - 0.5, -0.5],
        showgrid=False,
    )
    figure.update_xaxes(title=axis_title(axis), range=[min(0.0, *low) if min(low) < 0.2 else 0.2, 1.02])
    return safe_json(figure)


def histogram(series: Mapping[str, Sequence[float]], edges: Sequence[float], axis: str, *, log: bool = False) -> str:
    """Counts between common edges: one step line per series, as shares of the series."""
    figure = go.Figure(layout=plain_layout(height=300))
    for position, (label, values) in enumerate(series.items()):
        counts, _ = np.histogram(np.asarray(values, np.float64), bins=np.asarray(edges, np.float64))
        share = counts / max(1, counts.sum())
        figure.add_trace(go.Scatter(
            x=list(edges), y=[*share.tolist(), float(share[-1])], mode="lines",
            line={"shape": "hv", "color": hue(position)}, name=html.escape(label),
            customdata=[*counts.tolist(), int(counts[-1])],
            hovertemplate=f"from %{{x:.3~g}}: %{{customdata:,}} (%{{y:.1%}})<extra>{html.escape(label)}</extra>",
        ))  # fmt: skip
    figure.update_xaxes(title=axis_title(axis), type="log" if log else "linear")
    figure.update_yaxes(tickformat=".0%", rangemode="tozero")
    figure.update_layout(showlegend=len(series) > 1, legend={"orientation": "h", "y": 1.0, "yanchor": "bottom", "x": 0})
    return safe_json(figure)
