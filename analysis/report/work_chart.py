"""When trials and the tasks of later stages ran, side by side: a lane per task that runs at once (a Gantt chart)."""

from __future__ import annotations

import heapq
import html
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import plotly.graph_objects as go

from analysis.report.charts import HUES, axis_title, plain_layout, safe_json

DRIVER = "driver"  # the lane of what the driver itself did
KINDS = {  # in the order of the legend
    "trial to the end": HUES[0],
    "trial stopped early": HUES[1],
    "trial that failed": HUES[4],
    "seed repeat": HUES[5],
    "fold model": HUES[2],
    "logits": HUES[3],
    "stage": HUES[6],
}
MAX_BARS = 2000  # of more, those that touch are drawn as one: they would be thinner than a pixel
RESOLUTION = 1500  # such gaps in the whole width count as none


@dataclass(frozen=True)
class Span:
    """One piece of work, in seconds since the run began, and how many devices it held."""

    kind: str
    name: str
    began_s: float
    ended_s: float
    devices: float = 0.0

    @property
    def device_s(self) -> float:
        return self.devices * (self.ended_s - self.began_s)


@dataclass(frozen=True)
class WorkRow:
    """What all spans of a kind came to, for the table beside the chart."""

    kind: str
    count: int
    device_s: float
    began_s: float
    ended_s: float


def work_rows(spans: Sequence[Span]) -> list[WorkRow]:
    """A row per kind, in the order of KINDS."""
    found = []
    for kind in KINDS:
        of_kind = [span for span in spans if span.kind == kind]
        if of_kind:
            began_s, ended_s = min(span.began_s for span in of_kind), max(span.ended_s for span in of_kind)
            names = len({span.name for span in of_kind})  # a trial that was interrupted has several
            found.append(WorkRow(kind, names, sum(span.device_s for span in of_kind), began_s, ended_s))
    return found


def lanes(spans: Iterable[Span]) -> list[tuple[int, Span]]:
    """(lane, span) by begin: each in the lowest lane that is free by then."""
    busy: list[tuple[float, int]] = []  # until when, lane
    free: list[int] = []
    found = []
    for span in sorted(spans, key=lambda one: (one.began_s, one.ended_s)):
        while busy and busy[0][0] <= span.began_s:
            heapq.heappush(free, heapq.heappop(busy)[1])
        lane = heapq.heappop(free) if free else len(busy)
        heapq.heappush(busy, (span.ended_s, lane))
        found.append((lane, span))
    return found


def work_figure(spans: Sequence[Span]) -> str:
    """A bar per span over hours (minutes in a run of less than two hours)."""
    placed = lanes(span for span in spans if span.kind != "stage")
    num_lanes = max((lane for lane, _ in placed), default=-1) + 1
    placed += [(num_lanes, span) for span in spans if span.kind == "stage"]
    whole_s = max((span.ended_s for span in spans), default=0.0)
    if len(placed) > MAX_BARS:
        placed = _merged(placed, whole_s / RESOLUTION)
    unit, unit_s = ("hours", 3600.0) if whole_s >= 7200 else ("minutes", 60.0)
    row_px = 24 if num_lanes <= 24 else 12
    figure = go.Figure(layout=plain_layout(height=150 + row_px * (num_lanes + 1)))
    for kind, colour in KINDS.items():
        bars = [(lane, span) for lane, span in placed if span.kind == kind]
        if bars:
            figure.add_trace(_bars(kind, colour, bars, unit, unit_s))
    ticks = [*range(num_lanes), num_lanes]
    figure.update_yaxes(
        tickvals=ticks, ticktext=[*(str(lane + 1) for lane in range(num_lanes)), DRIVER], showgrid=False,
        range=[num_lanes + 0.5, -0.5], title=axis_title("at once"),
    )  # fmt: skip
    figure.update_xaxes(title=axis_title(f"{unit} since the start"), rangemode="tozero")
    figure.update_layout(
        barmode="overlay", bargap=0.2, legend={"orientation": "h", "y": 1.0, "yanchor": "bottom", "x": 0}
    )
    return safe_json(figure)


def _bars(kind: str, colour: str, bars: Sequence[tuple[int, Span]], unit: str, unit_s: float) -> go.Bar:
    return go.Bar(
        x=[round((span.ended_s - span.began_s) / unit_s, 4) for _, span in bars],
        base=[round(span.began_s / unit_s, 4) for _, span in bars],
        y=[lane for lane, _ in bars],
        orientation="h",
        name=kind,
        marker={"color": colour, "line": {"width": 0}},
        text=[html.escape(span.name) for _, span in bars],
        textposition="none",
        hovertemplate=f"%{{text}}, {kind}<br>%{{x:.2f}} {unit}<extra></extra>",
    )


def _merged(placed: Sequence[tuple[int, Span]], gap_s: float) -> list[tuple[int, Span]]:
    """Bars of one lane and kind with less than `gap_s` between them as one."""
    found: list[tuple[int, Span]] = []
    for lane, span in sorted(placed, key=lambda pair: (pair[0], pair[1].began_s)):
        if found:
            before_lane, before = found[-1]
            touches = before_lane == lane and before.kind == span.kind and span.began_s - before.ended_s < gap_s
            if touches:
                first = before.name.split(" to ")[0]
                merged = replace(before, name=f"{first} to {span.name}", ended_s=max(before.ended_s, span.ended_s))
                found[-1] = lane, merged
                continue
        found.append((lane, span))
    return found
