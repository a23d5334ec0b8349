"""Writes events.jsonl, the append-only log of a search."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from typing_extensions import override

from search.observers.search_info import SCALARS
from search.observers.trial_row import Observer, TrialRow, finite
from trainables.plain_json import parse_json


class EventLog(Observer):
    """events.jsonl: one JSON object per line, appended; `at` is the injected clock's reading in seconds.

    The study is told of a trial's end before this log is; the next session appends an end that a kill kept from it.
    """

    def __init__(self, path: Path, *, clock: Callable[[], float]) -> None:
        self.path, self.clock = path, clock
        self.ended: set[str] = set()  # trials whose end is in the log

    @override
    def begin(self, rows: Mapping[int, TrialRow], num_trials: int) -> None:
        if self.path.is_file():
            with self.path.open("rb+") as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(max(0, size - 1))
                if file.read() != b"\n":
                    file.write(b"\n")  # the last writer was killed within a line
            self.ended = {event["trial"] for event in read_events(self.path) if event["event"] == "trial_ended"}
        self._append({"event": "search_started", "num_trials": num_trials, "num_known": len(rows)})
        for row in rows.values():
            if row.state != "RUNNING":
                self.trial_ended(row)

    @override
    def trial_started(self, row: TrialRow) -> None:
        if row.trial in self.ended:
            return
        self._append({"event": "trial_started", "trial": row.trial, "recipe_hash": row.recipe_hash})

    @override
    def epoch(self, row: TrialRow, metrics: Mapping[str, Any]) -> None:
        kept = {key: value for key, value in metrics.items() if "/" in key or key in SCALARS}
        self._append({"event": "epoch", "trial": row.trial, "family": row.family, **kept})

    @override
    def trial_ended(self, row: TrialRow) -> None:
        if row.trial in self.ended:
            return
        self.ended.add(row.trial)
        end = {"state": row.state, "epochs": row.epochs, "best_miou": row.best_miou, "error": row.error}
        self._append({"event": "trial_ended", "trial": row.trial, **end})

    @override
    def end(self) -> None:
        self._append({"event": "search_ended"})

    def _append(self, event: Mapping[str, Any]) -> None:
        append_event(self.path, {"at": self.clock(), **event})


def append_event(path: Path, event: Mapping[str, Any]) -> None:
    """Append one event, which has `at` and `event`, to a log."""
    line = json.dumps(finite(event), ensure_ascii=False, allow_nan=False)
    with path.open("a", encoding="utf-8") as file:
        file.write(line + "\n")


def read_events(path: Path) -> Iterator[dict[str, Any]]:
    """The events of a log, read line by line: it may be larger than memory. Lines that a kill cut short are left out;
    any other broken line is an error.

    Raises ValueError naming the line.
    """
    with path.open(encoding="utf-8", errors="replace", newline="\n") as lines:
        for position, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                event = parse_json(line)
            except ValueError as error:
                cut_short = not line.rstrip().endswith("}")
                if not cut_short:
                    raise ValueError(f"{path}:{position} must be one JSON object per line; remove that line") from error
                continue
            if not _is_event(event):
                raise ValueError(f"{path}:{position} must be one event of a search per line; remove that line")
            yield event


def curves(events: Iterable[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    """trial -> one row per epoch. An epoch that ran again after a crash counts once, as it ended last."""
    by_trial: dict[str, dict[int, Mapping[str, Any]]] = {}
    for event in events:
        if event.get("event") == "epoch":
            by_trial.setdefault(event["trial"], {})[event["epoch"]] = event
    return {trial: [epochs[n] for n in sorted(epochs)] for trial, epochs in by_trial.items()}


def _is_event(value: Any) -> bool:
    """An object; of an epoch with its trial and number."""
    if not isinstance(value, dict):
        return False
    return value.get("event") != "epoch" or (
        isinstance(value.get("trial"), str) and isinstance(value.get("epoch"), int)
    )
