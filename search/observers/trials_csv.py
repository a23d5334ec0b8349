"""Writes trials.csv, one row per trial."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from typing_extensions import override

from search.observers.trial_row import Observer, TrialRow
from trainables.csv_cells import escaped
from trainables.files import write_text

SHARE = 0.02  # of the time, which rewriting the table may take: its duration grows with the number of trials


class CsvTable(Observer):
    """trials.csv, rewritten whole or not at all: when a trial starts or ends, for epochs at most once in `every_s`, and
    in a search of thousands of trials less often, so that rewriting takes no more than SHARE of the time."""

    def __init__(self, path: Path, *, classes: Sequence[str], clock: Callable[[], float], every_s: float = 2.0) -> None:
        self.path, self.classes, self.clock, self.every_s = path, list(classes), clock, every_s
        self.rows: Mapping[int, TrialRow] = {}
        self.written_s, self.rest_s = -math.inf, 0.0  # when it was written last, and how long it is to rest after that
        self.is_due = False  # a trial started or ended while it rested

    @override
    def begin(self, rows: Mapping[int, TrialRow], num_trials: int) -> None:
        self.rows = rows
        self.write()

    @override
    def epoch(self, row: TrialRow, metrics: Mapping[str, Any]) -> None:
        if self.clock() - self.written_s >= max(self.every_s, self.rest_s):
            self.write()

    @override
    def trial_started(self, row: TrialRow) -> None:
        self.is_due = True
        self.tick()

    @override
    def trial_ended(self, row: TrialRow) -> None:
        self.is_due = True
        self.tick()

    @override
    def tick(self) -> None:
        if self.is_due and self.clock() - self.written_s >= self.rest_s:
            self.write()

    @override
    def end(self) -> None:
        self.write()

    def write(self) -> None:
        begun_s, self.is_due = self.clock(), False
        write_csv(self.path, [self.rows[number] for number in sorted(self.rows)], self.classes)
        self.written_s = self.clock()
        self.rest_s = (self.written_s - begun_s) / SHARE


def write_csv(path: Path, rows: Sequence[TrialRow], classes: Sequence[str]) -> None:
    """One line per trial: the row's fields, `iou/<class>`, then `param/<name>` of every trial's parameters. Text that
    begins like a formula has an apostrophe before it."""
    plain = [item.name for item in fields(TrialRow) if item.name not in ("iou", "params", "recipe")]
    names = sorted({name for row in rows for name in row.params})
    header = [*plain, *(f"iou/{name}" for name in classes), *(f"param/{name}" for name in names)]
    text = io.StringIO()
    writer = csv.DictWriter(text, header, restval="", lineterminator="\n")
    writer.writeheader()
    for row in rows:
        line = {key: value for key in plain if (value := getattr(row, key)) is not None}
        line |= {f"iou/{name}": iou for name, iou in zip(classes, row.iou, strict=False) if iou is not None}
        line |= {f"param/{name}": value for name, value in row.params.items()}
        writer.writerow({key: escaped(value) for key, value in line.items()})
    write_text(path, text.getvalue())
