"""How long a running search will take, about: by how many epochs its trials have run so far, and what one takes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from search.observers.trial_row import TrialRow

PRIOR_TRIALS = 5.0  # trials that the expected number of epochs counts as, beside those that have ended
PATIENCE = 0.25  # of the time left: within so long a new estimate takes over from the last one
MIN_PATIENCE_S = 30.0


@dataclass(frozen=True)
class Lengths:
    """How many epochs a trial has: what early stopping is expected to leave of it, and at most."""

    expected: float
    most: int


class SearchForecast:
    """Seconds until all trials have ended. None until an epoch has.

    Epochs per trial are estimated from ended and running trials together, as for exponential lifetimes with censoring
    (epochs run over trials ended): ended ones alone are, early on, those that were stopped early. What is told changes
    slowly from one call to the next, so that it does not jump with every trial's end.
    """

    def __init__(self, lengths: Lengths) -> None:
        self.lengths = lengths
        self.rows: Mapping[int, TrialRow] = {}
        self.num_trials = 0
        self._running: set[int] = set()  # also those of an earlier session, which wait to go on
        self._num_ended = self._epochs_ended = 0  # kept, since counting them takes longer the more there are
        self._signs_s: dict[int, float] = {}  # number of a running trial -> when it started or last ended an epoch
        self._waits_s, self._num_waits, self._width = 0.0, 0, 1
        self._told_s: float | None = None
        self._told_at_s = 0.0

    def begin(self, rows: Mapping[int, TrialRow], num_trials: int) -> None:
        """`rows` is the live table."""
        self.rows, self.num_trials = rows, num_trials
        self._running = {number for number, row in rows.items() if row.state == "RUNNING"}
        self._num_ended = len(rows) - len(self._running)
        self._epochs_ended = sum(row.epochs for number, row in rows.items() if number not in self._running)

    @property
    def num_running(self) -> int:
        """How many trials run, or wait to go on."""
        return len(self._running)

    def started(self, number: int, now_s: float) -> None:
        """A trial starts or goes on."""
        self._running.add(number)
        self._signs_s[number] = now_s
        self._width = max(self._width, len(self._signs_s))

    def epoch(self, number: int, now_s: float) -> None:
        """A trial has ended an epoch."""
        self._waits_s += now_s - self._signs_s.get(number, now_s)
        self._num_waits += 1
        self._signs_s[number] = now_s

    def ended(self, number: int) -> None:
        """A trial has ended."""
        self._signs_s.pop(number, None)
        self._running.discard(number)
        self._num_ended += 1
        self._epochs_ended += self.rows[number].epochs

    def left_s(self, now_s: float) -> float | None:
        """About how many seconds are left."""
        found = self._estimate_s()
        if found is None:
            return None
        if self._told_s is not None:
            passed_s = now_s - self._told_at_s
            kept = math.exp(-passed_s / max(MIN_PATIENCE_S, PATIENCE * self._told_s))
            found = kept * max(0.0, self._told_s - passed_s) + (1 - kept) * found
        self._told_s, self._told_at_s = found, now_s
        return found

    def _estimate_s(self) -> float | None:
        if not self._num_waits:
            return None
        running = [self.rows[number].epochs for number in self._running]
        epochs = PRIOR_TRIALS * self.lengths.expected + self._epochs_ended + sum(running)
        mean = min(epochs / (PRIOR_TRIALS + self._num_ended), float(self.lengths.most))
        left = [min(mean, self.lengths.most - epochs) for epochs in running]
        work = sum(left) + mean * max(0, self.num_trials - len(running) - self._num_ended)
        return self._waits_s / self._num_waits * max(work / self._width, *left, 0.0)
