"""Optuna's own plots of a search, in the page's colours: a slice plot per parameter, and the parallel coordinates.

The data, axes and hover texts are `optuna.visualization`'s; its colour scale fades on white, and its bar of colours
takes a phone's width.
"""

from __future__ import annotations

import html

import plotly.graph_objects as go

from analysis.report.charts import GREY, MAX_CURVES, axis_title, hue, plain_layout, safe_json, shorten

TOP_SHARE = 0.25  # of the trials, whose lines are coloured
AXIS_CHARACTERS = 20
VALUE_CHARACTERS = 13  # beside an axis, as eight of them leave room for on 800 px; the whole is under the pointer


def slice_figure(plotted: go.Figure, parameter: str) -> str:
    """`plotted` is `plot_slice` of one parameter: a point per trial, by the parameter and the score."""
    figure = go.Figure(layout=plain_layout(height=250))
    for trace in plotted.data:
        figure.add_trace(go.Scatter(
            x=[x.strip("'") if isinstance(x, str) else x for x in trace.x],  # Optuna writes texts as Python does
            y=list(trace.y), mode="markers", showlegend=False, marker={"color": hue(0), "size": 9, "opacity": 0.75},
            hovertemplate=f"{html.escape(parameter)} %{{x}}<br>mIoU %{{y:.4f}}<extra></extra>",
        ))  # fmt: skip
    kind = plotted.layout.xaxis.type
    if kind == "log":
        figure.update_xaxes(type="log", nticks=5, exponentformat="power")
    elif kind == "category":
        figure.update_xaxes(type="category", tickangle=-30)
    figure.update_xaxes(title=axis_title(html.escape(shorten(parameter, 44))))
    figure.update_yaxes(title=axis_title("val mIoU"))
    return safe_json(figure)


def parallel_figure(plotted: go.Figure) -> str:
    """`plotted` is `plot_parallel_coordinate`; its first axis is the score. The best quarter of the trials is coloured
    and lies on top; at most MAX_CURVES are drawn."""
    lines = sorted((trace for trace in plotted.data if trace.mode == "lines"), key=lambda trace: trace.y[0])
    lines = lines[-MAX_CURVES:]
    num_top = max(1, round(TOP_SHARE * len(lines)))
    figure = go.Figure(layout=plain_layout(height=420))
    for position, trace in enumerate(lines):
        best = position >= len(lines) - num_top
        figure.add_trace(go.Scatter(
            x=list(trace.x), y=list(trace.y), mode="lines+markers", showlegend=False, marker={"size": 5},
            line={"color": hue(0) if best else GREY, "width": 2.2 if best else 1}, opacity=0.9 if best else 0.45,
            customdata=[[html.escape(str(cell)) for cell in row] for row in trace.customdata],
            hovertemplate=trace.hovertemplate,
        ))  # fmt: skip
    names = [html.escape(shorten(str(name), AXIS_CHARACTERS)) for name in plotted.layout.xaxis.ticktext]
    figure.update_layout(shapes=[shape.to_plotly_json() | {"line": {"color": GREY, "width": 1}} for shape in
                                 plotted.layout.shapes])  # fmt: skip
    for note in plotted.layout.annotations:
        kept = {key: note[key] for key in ("x", "y", "xref", "yref", "xanchor", "yanchor", "xshift", "yshift")}
        figure.add_annotation(kept | {
            "text": html.escape(shorten(str(note.text), VALUE_CHARACTERS)), "showarrow": False, "font": {"size": 11},
        })  # fmt: skip
    figure.update_xaxes(
        tickvals=list(plotted.layout.xaxis.tickvals), ticktext=names, tickangle=-30, showgrid=False,
        range=[-0.45, plotted.layout.xaxis.range[1]],  # room for the first axis's numbers on a phone
    )  # fmt: skip
    figure.update_yaxes(visible=False, range=list(plotted.layout.yaxis.range))
    return safe_json(figure)
