"""When a run's trials, tasks and stages ran, from events.jsonl, run.json and the rows of the study."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from analysis.report.work_chart import Span
from search.observers.trial_row import TrialRow
from search.stages.stage import Stage

TASKS = {Stage.noise: "seed repeat", Stage.folds: "fold model", Stage.logits: "logits"}
TRIALS = {"COMPLETE": "trial to the end", "PRUNED": "trial stopped early", "RUNNING": "trial stopped early"}
FAILED = "trial that failed"


class Timeline:
    """Told of all events of a log in their order; then gives the spans."""

    def __init__(self) -> None:
        self._open: dict[str, list[float]] = {}  # trial -> when it began, last sign
        self._trials: list[tuple[str, float, float]] = []
        self._tasks: list[Mapping[str, Any]] = []

    def take(self, event: Mapping[str, Any]) -> None:
        """One event."""
        kind, at_s, trial = event.get("event"), float(event.get("at", 0.0)), event.get("trial", "")
        if kind == "task":
            self._tasks.append(event)
        elif kind == "search_started":  # what an earlier session left open was interrupted
            for name in list(self._open):
                self._close(name)
        elif kind == "trial_started":
            self._close(trial)
            self._open[trial] = [at_s, at_s]
        elif trial in self._open:
            self._open[trial][1] = at_s
            if kind == "trial_ended":
                self._close(trial)

    def _close(self, trial: str) -> None:
        if trial in self._open:
            began_s, ended_s = self._open.pop(trial)
            self._trials.append((trial, began_s, ended_s))

    def spans(self, rows: Sequence[TrialRow], record: Mapping[str, Any]) -> list[Span]:
        """In seconds since the run began. A trial's device-seconds are those of its row, by the time of its spans."""
        for name in list(self._open):
            self._close(name)
        start_s = datetime.fromisoformat(record["started"]).timestamp()
        by_trial = {row.trial: row for row in rows}
        wall_s: dict[str, float] = {}
        for name, began_s, ended_s in self._trials:
            wall_s[name] = wall_s.get(name, 0.0) + ended_s - began_s
        found = [
            Span(
                TRIALS.get(by_trial[name].state, FAILED),
                name,
                began_s - start_s,
                ended_s - start_s,
                by_trial[name].device_s / wall_s[name] if wall_s[name] else 0.0,
            )
            for name, began_s, ended_s in self._trials
            if name in by_trial
        ]
        found += [
            Span(TASKS[Stage(one["stage"])], one["name"], one["began"] - start_s, one["at"] - start_s, _devices(one))
            for one in self._tasks
        ]
        return [span for span in [*found, *stages(record, start_s)] if span.ended_s > span.began_s >= 0]


def _devices(task: Mapping[str, Any]) -> float:
    return float(task.get("gpu") or task.get("cpu") or 0.0)


def stages(record: Mapping[str, Any], start_s: float) -> list[Span]:
    """Those without a record of their tasks, of the session that ended them."""
    took = record.get("stage_s", {})
    found = []
    for stage, ended in record["stages"].items():
        if stage in took and stage != Stage.search and stage not in TASKS:
            ended_s = datetime.fromisoformat(ended).timestamp() - start_s
            found.append(Span("stage", stage, max(0.0, ended_s - took[stage]), ended_s))
    return found
