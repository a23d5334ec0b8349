"""The chart of when what ran: lanes without overlap, as few as ran at once; nothing is lost where bars are merged."""

from __future__ import annotations

import itertools
import json

import numpy as np

from analysis.report import work_chart
from analysis.report.work_chart import Span, lanes, work_figure, work_rows


def spans_of(num: int, seed: int = 0) -> list[Span]:
    rng = np.random.default_rng(seed)
    begins, lengths = rng.uniform(0, 1000, num), rng.uniform(1, 50, num)
    pairs = zip(begins, lengths, strict=True)
    return [Span("trial to the end", f"{n:05d}", begin, begin + s, 2.0) for n, (begin, s) in enumerate(pairs)]


def test_there_are_as_many_lanes_as_spans_at_once_and_none_overlaps() -> None:
    spans = spans_of(200)
    placed = lanes(spans)
    most = max(sum(one.began_s <= at.began_s < one.ended_s for one in spans) for at in spans)
    assert {lane for lane, _ in placed} == set(range(most))
    for lane in range(most):
        own = [span for found, span in placed if found == lane]
        assert all(before.ended_s <= after.began_s for before, after in itertools.pairwise(own))


def test_the_table_has_the_device_seconds_of_every_kind_and_counts_a_trial_once() -> None:
    spans = [
        Span("logits", "00001", 30.0, 40.0, 0.5),
        Span("trial to the end", "00001", 0.0, 10.0, 2.0),
        Span("trial to the end", "00001", 15.0, 20.0, 2.0),
    ]
    trials, logits = work_rows(spans)
    assert (trials.kind, trials.count, trials.device_s, trials.began_s, trials.ended_s) == (
        "trial to the end", 1, 30.0, 0.0, 20.0,
    )  # fmt: skip
    assert logits.device_s == 5.0


def test_thousands_of_bars_are_drawn_as_few_that_cover_as_much() -> None:
    spans = [Span("trial stopped early", f"{n:05d}", 1.0 * n, n + 0.999, 1.0) for n in range(5000)]
    [trace] = json.loads(work_figure(spans))["data"]
    assert len(trace["x"]) <= work_chart.MAX_BARS
    assert sum(trace["x"]) * 60 >= 0.999 * 5000 or sum(trace["x"]) * 3600 >= 0.999 * 5000
    assert trace["text"][0].startswith("00000 to ")
