"""Trackers that can tell what they have recorded: a resumed search tells them the epochs and ends that they missed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from typing_extensions import override

from search.observers.event_log import curves, read_events
from search.observers.search_info import SearchInfo, plain_names, scalars
from search.observers.trial_row import Observer, TrialRow


class ReplayingTracker(Observer, ABC):
    """Records each epoch of a trial once, by the trial's name and the epoch's number.

    `begin` reads events.jsonl, which holds every epoch, and records what a failure or a kill kept from the tracker, or
    what ran before it was asked for. An epoch that runs again after a crash is not recorded again.
    """

    def __init__(self, info: SearchInfo) -> None:
        self.info, self.class_names = info, plain_names(info.classes)
        self.epochs: dict[str, set[int]] = {}  # trial -> epochs that are recorded

    @abstractmethod
    def open(self) -> None:
        """Connect, or make folders; before anything else."""

    @abstractmethod
    def recorded(self, trial: str) -> set[int]:
        """The epochs of a trial that earlier sessions recorded."""

    @abstractmethod
    def has_ended(self, trial: str) -> bool:
        """Whether a trial's end is recorded."""

    @abstractmethod
    def start(self, row: TrialRow) -> None:
        """Open a trial's record, or go on with it."""

    @abstractmethod
    def record(self, row: TrialRow, epoch: int, values: Mapping[str, float], at_s: float | None) -> None:
        """Record one epoch; `at_s` is its time in seconds since 1970, None for now."""

    @abstractmethod
    def finish(self, row: TrialRow) -> None:
        """Record a trial's end."""

    @override
    def begin(self, rows: Mapping[int, TrialRow], num_trials: int) -> None:
        self.open()
        events, missing = self.info.run.events, [row for row in rows.values() if not self.has_ended(row.trial)]
        names = {row.trial for row in missing}  # of thousands of trials, nearly all have ended
        told = curves(event for event in read_events(events) if event.get("trial") in names) if events.is_file() else {}
        for row in missing:
            if row.state == "RUNNING" and row.trial not in told:
                continue
            self.trial_started(row)
            for event in told.get(row.trial, ()):
                self._record(row, event["epoch"], event, event.get("at"))
            if row.state != "RUNNING":
                self.trial_ended(row)

    @override
    def trial_started(self, row: TrialRow) -> None:
        if not self.has_ended(row.trial):
            self.epochs.setdefault(row.trial, self.recorded(row.trial))
            self.start(row)

    @override
    def epoch(self, row: TrialRow, metrics: Mapping[str, Any]) -> None:
        self._record(row, int(metrics.get("epoch", row.epochs)), metrics, None)

    @override
    def trial_ended(self, row: TrialRow) -> None:
        if not self.has_ended(row.trial):
            self.finish(row)

    def _record(self, row: TrialRow, epoch: int, metrics: Mapping[str, Any], at_s: float | None) -> None:
        done = self.epochs.setdefault(row.trial, set())
        if epoch not in done:
            self.record(row, epoch, scalars(metrics, self.class_names), at_s)
            done.add(epoch)
