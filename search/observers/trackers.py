"""The registry of experiment trackers, and the guard that keeps an observer's failure from ending a search."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from typing import Any

from typing_extensions import override

from search.observers.mlflow_tracker import MlflowTracker
from search.observers.search_info import Outcome, SearchInfo
from search.observers.tensorboard_tracker import TensorboardTracker
from search.observers.trial_row import Observer, TrialRow
from search.observers.wandb_tracker import WandbTracker

TRACKERS: dict[str, Callable[[SearchInfo], Observer]] = {
    "wandb": WandbTracker,
    "mlflow": MlflowTracker,
    "tensorboard": TensorboardTracker,
}
NEEDS = {"mlflow": ("mlflow", "mlflow-skinny")}  # tracker -> the module of an optional package, and the package


def check_trackers(names: Sequence[str]) -> None:
    """Raises ValueError, with all problems, for unknown names (with the nearest match) and for trackers whose package
    is not installed (with the command that installs it). `jsonl` is accepted and always on."""
    known, problems = [*TRACKERS, "jsonl"], []
    for name in dict.fromkeys(names):
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.0)
            problems.append(f"a tracker must be one of {', '.join(known)}, got {name}; did you mean {near[0]}?")
        elif name in NEEDS and find_spec(NEEDS[name][0]) is None:
            module, package = NEEDS[name]
            problems.append(
                f"the tracker {name} needs the package {module}, got none; install it: pip install {package}"
            )
    if problems:
        raise ValueError("\n".join(problems))


def build_trackers(names: Sequence[str], info: SearchInfo) -> list[Observer]:
    """The trackers of these names, each once and guarded. Raises ValueError as `check_trackers` does."""
    check_trackers(names)
    wanted = [name for name in dict.fromkeys(names) if name in TRACKERS]
    return [Guarded(f"the tracker {name}", TRACKERS[name](info)) for name in wanted]


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
            self.say(f"{self.name} failed and is off for the rest of this session ({type(error).__name__}: {error})")

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

    @override
    def finished(self, outcome: Outcome) -> None:
        self._pass_on("finished", outcome)
