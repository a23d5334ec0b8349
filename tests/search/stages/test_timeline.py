"""When trials, tasks and stages ran, from the log of a run that was killed once."""

from __future__ import annotations

from factories import make_row

from analysis.report.work_chart import Span
from search.stages.timeline import Timeline

RECORD = {
    "started": "1970-01-01T00:01:40+00:00",
    "stages": {"search": "1970-01-01T00:10:00+00:00", "bundle": "1970-01-01T00:20:00+00:00"},
    "stage_s": {"search": 500.0, "bundle": 60.0},
}
EVENTS = [
    {"at": 100.0, "event": "search_started"},
    {"at": 110.0, "event": "trial_started", "trial": "00000"},
    {"at": 130.0, "event": "epoch", "trial": "00000", "epoch": 1},
    {"at": 500.0, "event": "search_started"},
    {"at": 510.0, "event": "trial_started", "trial": "00000"},
    {"at": 530.0, "event": "epoch", "trial": "00000", "epoch": 2},
    {"at": 530.5, "event": "trial_ended", "trial": "00000"},
    {"at": 700.0, "event": "task", "stage": "logits", "name": "00000", "began": 650.0, "cpu": 2.0, "gpu": 0.5},
]


def test_an_interrupted_trial_has_two_spans_and_the_devices_that_its_row_says() -> None:
    timeline = Timeline()
    for event in EVENTS:
        timeline.take(event)
    rows = [make_row(0, "PRUNED", device_s=81.0)]
    assert timeline.spans(rows, RECORD) == [
        Span("trial stopped early", "00000", 10.0, 30.0, 2.0),
        Span("trial stopped early", "00000", 410.0, 430.5, 2.0),
        Span("logits", "00000", 550.0, 600.0, 0.5),
        Span("stage", "bundle", 1040.0, 1100.0),
    ]
