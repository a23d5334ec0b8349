"""The registry of experiment trackers, and the guard that keeps an observer's failure from ending a search."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from typing_extensions import override

from search.observers.trial_row import Observer, TrialRow
from search.observers.wandb_tracker import WandbTracker

TRACKERS: dict[str, Callable[[Path], Observer]] = {"wandb": WandbTracker}


def build_trackers(names: Sequence[str], run_dir: Path) -> list[Observer]:
    """The trackers that a space names. `jsonl` is accepted and always on.

    Raises ValueError for an unknown name, with the nearest match.
    """
    known = [*TRACKERS, "jsonl"]
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.0)
            raise ValueError(f"a tracker must be one of {', '.join(known)}, got {name}; did you mean {near[0]}?")
    return [Guarded(f"the tracker {name}", TRACKERS[name](run_dir)) for name in names if name in TRACKERS]


def _warn(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


class Guarded(Observer):
    """Passes every call on to an observer that a search can do without.

    What that raises is said once and ends it, never the search. The run's own records, trials.csv and events.jsonl, are
    not guarded: a search that cannot write them has to stop, and is resumed.
    """

    def __init__(self, name: str, observer: Observer, *, say: Callable[[str], None] = _warn) -> None:
        self.name, self.observer, self.say = name, observer, say
        self.broken = False

    def _pass_on(self, method: str, *args: Any) -> None:
        if self.broken:
            return
        try:
            getattr(self.observer, method)(*args)
        except Exception as error:
            self.broken = True
            self.say(f"{self.name} failed and is off for the rest of this run ({type(error).__name__}: {error})")

    @override
    def begin(self, rows: Mapping[int, TrialRow], num_trials: int) -> None:
        self._pass_on("begin", rows, num_trials)

    @override
    def trial_started(self, row: TrialRow) -> None:
        self._pass_on("trial_started", row)

    @override
    def epoch(self, row: TrialRow, metrics: Mapping[str, Any]) -> None:
        self._pass_on("epoch", row, metrics)

    @override
    def trial_ended(self, row: TrialRow) -> None:
        self._pass_on("trial_ended", row)

    @override
    def tick(self) -> None:
        self._pass_on("tick")

    @override
    def end(self) -> None:
        self._pass_on("end")
