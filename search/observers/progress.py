"""Progress display: a live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import heapq
import math
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TextIO

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text
from typing_extensions import override

from search.observers.search_forecast import SearchForecast
from search.observers.trial_row import Observer, TrialRow

STYLES = {"RUNNING": "cyan", "COMPLETE": "green", "PRUNED": "dim", "FAIL": "red", "DIVERGED": "red"}
ROWS_SHOWN = 15
SILENT_S = 300.0  # no trial is called stalled earlier
SILENT_EPOCHS = 3  # nor before so many times the longest wait for an epoch


def duration(seconds: float) -> str:
    """'2h05m', '3m07s' or '12s'."""
    minutes, rest_s = divmod(round(seconds), 60)
    hours, rest_minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h{rest_minutes:02d}m"
    return f"{minutes}m{rest_s:02d}s" if minutes else f"{rest_s}s"


def score(miou: float | None) -> str:
    return "-" if miou is None else f"{miou:.4f}"


@dataclass(frozen=True)
class TimeLeft:
    """How the time left is estimated: that of the search, and, from its trials so far, that of the stages after it
    (None: not known yet)."""

    search: SearchForecast
    after_s: Callable[[Mapping[int, TrialRow]], float | None]


class Progress(Observer, ABC):
    """What both views share: counts, the best trial, and the time left, or, where a trial has stopped ending epochs,
    which one and for how long."""

    def __init__(self, left: TimeLeft, *, clock: Callable[[], float], every_s: float) -> None:
        self.left, self.clock, self.every_s = left, clock, every_s
        self.rows: Mapping[int, TrialRow] = {}
        self.num_trials, self.started_s, self.shown_s = 0, 0.0, 0.0
        self.signs_s: dict[int, float] = {}  # number of a running trial -> when it started or last ended an epoch
        self.last_sign_s = self.longest_s = 0.0
        self.waits = True  # for the first sign of a trial
        self.best: TrialRow | None = None
        self.after_s: float | None = None  # of the stages after the search, as asked for at `asked_s`
        self.asked_s = -math.inf

    @override
    def begin(self, rows: Mapping[int, TrialRow], num_trials: int) -> None:
        self.rows, self.num_trials = rows, num_trials
        self.left.search.begin(rows, num_trials)
        for row in rows.values():
            self._compare(row)
        self.started_s = self.shown_s = self.last_sign_s = self.clock()

    @override
    def trial_started(self, row: TrialRow) -> None:
        self.waits = False
        self.signs_s[row.number] = self.last_sign_s = self.clock()
        self.left.search.started(row.number, self.last_sign_s)

    @override
    def epoch(self, row: TrialRow, metrics: Mapping[str, Any]) -> None:
        now_s = self.clock()
        self.longest_s = max(self.longest_s, now_s - self.signs_s.get(row.number, now_s))
        self.signs_s[row.number] = self.last_sign_s = now_s
        self.left.search.epoch(row.number, now_s)
        self._compare(row)

    def _compare(self, row: TrialRow) -> None:
        """Keeps the best trial: looking for it among thousands at each one's end would take longer than the rest."""
        if row.best_miou is not None and (self.best is None or row.best_miou > (self.best.best_miou or 0.0)):
            self.best = row

    @override
    def trial_ended(self, row: TrialRow) -> None:
        self.waits = False  # one that was refused never started
        self.left.search.ended(row.number)
        self.signs_s.pop(row.number, None)
        self.last_sign_s = self.clock()

    @override
    def tick(self) -> None:
        if self.clock() - self.shown_s >= self.every_s:
            self.shown_s = self.clock()
            self.show()

    @abstractmethod
    def show(self) -> None:
        """Draw now."""

    def summary(self) -> str:
        """'3/8 trials, 2 running, best 0.4120 (00002), 1m10s, about 2m00s left'."""
        running = self.left.search.num_running
        ended = len(self.rows) - running
        parts = [f"{ended}/{self.num_trials} trials", f"{running} running"]
        parts += ["waiting for the first worker to start"] if self.waits else []
        if self.best:
            parts.append(f"best mIoU {score(self.best.best_miou)} ({self.best.trial})")
        parts.append(duration(self.clock() - self.started_s))
        if ended < self.num_trials:
            parts += [text for text in [self.stall() or self.time_left()] if text]
        return ", ".join(parts)

    def time_left(self) -> str:
        """'about 6m00s left, then about 4m00s of other stages'; empty before the first epoch's end."""
        now_s = self.clock()
        left_s = self.left.search.left_s(now_s)
        if left_s is None:
            return ""
        if now_s - self.asked_s >= self.every_s:  # it looks at every trial that there ever was
            self.asked_s, self.after_s = now_s, self.left.after_s(self.rows)
        then = f", then about {duration(self.after_s)} of other stages" if self.after_s else ""
        return f"about {duration(left_s)} left{then}"

    def stall(self) -> str:
        """'stalled: 00003 has ended no epoch for 12m00s ...'; empty where all goes on."""
        now_s, patience_s = self.clock(), max(SILENT_S, SILENT_EPOCHS * self.longest_s)
        silent = {number: now_s - sign_s for number, sign_s in self.signs_s.items() if now_s - sign_s > patience_s}
        if silent:
            names = ", ".join(self.rows[number].trial for number in sorted(silent))
            waited = duration(max(silent.values()))
            return f"stalled: {names} ended no epoch for {waited} (search.trial_timeout_s ends such trials)"
        if not self.signs_s and now_s - self.last_sign_s > patience_s:
            return f"stalled: no trial has run for {duration(now_s - self.last_sign_s)} (are the nodes still there?)"
        return ""


class PlainLines(Progress):
    """A line per trial's end, and one every `every_s` seconds."""

    def __init__(
        self, left: TimeLeft, *, clock: Callable[[], float], every_s: float = 30.0, stream: TextIO | None = None
    ) -> None:
        super().__init__(left, clock=clock, every_s=every_s)
        self.stream = stream

    @override
    def begin(self, rows: Mapping[int, TrialRow], num_trials: int) -> None:
        super().begin(rows, num_trials)
        self._line(self.summary())

    def _line(self, text: str) -> None:
        print(text, file=self.stream or sys.stdout, flush=True)

    @override
    def trial_ended(self, row: TrialRow) -> None:
        super().trial_ended(row)
        line = f"trial {row.trial} {row.state}: {row.backbone} + {row.head}, {row.epochs} epochs"
        if row.best_miou is not None:
            line += f", best mIoU {score(row.best_miou)} at epoch {row.best_epoch}"
        if row.error:
            line += f" ({row.error.splitlines()[-1]})"
        self._line(f"{line} [{self.summary()}]")

    def show(self) -> None:
        self._line(self.summary())

    @override
    def end(self) -> None:
        self._line(self.summary())


class LiveTable(Progress):
    """A rich table that redraws itself: running trials first, then the best."""

    def __init__(
        self, left: TimeLeft, *, clock: Callable[[], float], every_s: float = 0.5, console: Console | None = None
    ) -> None:
        super().__init__(left, clock=clock, every_s=every_s)
        self.console = console or Console()
        self.live: Live | None = None

    @override
    def begin(self, rows: Mapping[int, TrialRow], num_trials: int) -> None:
        super().begin(rows, num_trials)
        self.live = Live(self.render(), console=self.console, auto_refresh=False)
        self.live.start()

    def show(self) -> None:
        if self.live is not None:
            self.live.update(self.render(), refresh=True)

    @override
    def end(self) -> None:
        if self.live is not None:
            self.show()
            self.live.stop()
            self.live = None

    def render(self) -> Group:
        table = Table("trial", "state", "backbone", "head", "epochs", "best mIoU", "device time", box=None)
        first = heapq.nsmallest(
            ROWS_SHOWN, self.rows.values(), key=lambda row: (row.state != "RUNNING", -(row.best_miou or 0.0))
        )
        for row in first:
            state = Text(row.state, style=STYLES[row.state])
            time = f"{duration(row.device_s)} {row.device}"
            table.add_row(row.trial, state, row.backbone, row.head, str(row.epochs), score(row.best_miou), time)
        hidden = len(self.rows) - ROWS_SHOWN
        more = Text(f"and {hidden} more" if hidden > 0 else "")
        return Group(table, more, Text(self.summary(), style="bold"))


def build_progress(left: TimeLeft, stream: TextIO, *, clock: Callable[[], float]) -> Progress:
    """The live table where `stream` is a terminal, else plain lines."""
    return (
        LiveTable(left, clock=clock, console=Console(file=stream))
        if stream.isatty()
        else PlainLines(left, clock=clock, stream=stream)
    )
