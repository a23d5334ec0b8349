"""Calls searcher, scheduler and Ray callbacks in the order in which Ray Tune 2.60's controller does, without processes.

A trial's result arrives when its epoch ends in simulated time; ties go to the trial that started the epoch first. So a
replay is a function of its arguments, as a search at `max_concurrent: 1` is.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from ray.tune import PlacementGroupFactory
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher

from search.engine.ray_callback import TrialTable
from search.engine.searcher import FamilySearch
from trainables.ray_trainable import METRIC
from trainables.recipe.recipe import backbone_family

ONE_CPU = PlacementGroupFactory([{"CPU": 1.0}])
Recipe = Mapping[str, Any]  # as JSON has it


class Model(Protocol):
    """What stands in for training."""

    def metrics(self, recipe: Recipe, epoch: int) -> dict[str, Any]:
        """What a trial reports after an epoch (from 1 on), METRIC among it."""
        ...

    def epoch_s(self, recipe: Recipe) -> float:
        """Simulated seconds of one epoch."""
        ...


class Task(Model, Protocol):
    """A model and the search that it is made for."""

    @property
    def space(self) -> str:
        """A name or path that `load_space` takes."""
        ...

    @property
    def seed(self) -> int: ...

    @property
    def max_epochs(self) -> int: ...

    @property
    def grace_epochs(self) -> int: ...

    @property
    def slow_family(self) -> str: ...


@dataclass(eq=False)
class ReplayedTrial:
    """What searcher, scheduler and callbacks read of a Ray trial."""

    trial_id: str
    config: dict[str, Any]
    status: str = "PENDING"
    epoch: int = 0
    placement_group_factory: PlacementGroupFactory = ONE_CPU
    error_file: str | None = None


@dataclass(frozen=True)
class Epoch:
    """One epoch of a replay, in the order in which they ended."""

    number: int  # of the trial
    recipe: Recipe
    epoch: int
    miou: float
    at_s: float  # simulated

    @property
    def family(self) -> str:
        return backbone_family(self.recipe["backbone"]["name"])


@dataclass
class Replay:
    """One search. `num_workers` trials run at once, and `num_ahead` more are suggested before there is room for them,
    as the tuner has it. `table` passes rows on to the study and to observers."""

    search: FamilySearch
    scheduler: TrialScheduler
    model: Model
    num_workers: int = 1
    num_ahead: int = 0
    table: TrialTable | None = None
    trials: list[ReplayedTrial] = field(default_factory=list)
    pending: list[ReplayedTrial] = field(default_factory=list)
    paused: list[ReplayedTrial] = field(default_factory=list)
    running: list[tuple[float, int, ReplayedTrial]] = field(default_factory=list)  # a heap: when an epoch ends
    order: int = 0
    now_s: float = 0.0  # simulated
    suggested: Callable[[], None] = lambda: None  # called around each suggestion, to time it

    def epochs(self) -> Iterator[Epoch]:
        """Runs the search; ends where the searcher has finished, or where the caller stops asking."""
        while True:
            self._fill(self.now_s)
            if not self.running:
                return
            self.now_s, _, trial = heapq.heappop(self.running)
            yield self._end_epoch(trial, self.now_s)

    def get_trials(self) -> list[ReplayedTrial]:
        """Those that a scheduler may choose from, as Ray's controller has it."""
        return self.paused

    def _fill(self, now_s: float) -> None:
        while len(self.running) < self.num_workers and (trial := self._next()):
            trial.status = "RUNNING"
            if self.table:
                self.table.on_trial_start(0, self.trials, trial)
            self._begin_epoch(trial, now_s)
        while len(self.running) + len(self.pending) < self.num_workers + self.num_ahead and (new := self._suggest()):
            self.pending.append(new)

    def _next(self) -> ReplayedTrial | None:
        promoted = self.scheduler.choose_trial_to_run(self) if self.paused else None  # type: ignore[arg-type]
        if promoted is not None:
            self.paused.remove(promoted)  # type: ignore[arg-type]
            return promoted  # type: ignore[return-value]
        return self.pending.pop(0) if self.pending else self._suggest()

    def _suggest(self) -> ReplayedTrial | None:
        trial_id = f"replayed-{len(self.trials)}"
        self.suggested()
        config = self.search.suggest(trial_id)
        self.suggested()
        if not isinstance(config, dict):
            assert config in (None, Searcher.FINISHED)
            return None
        trial = ReplayedTrial(trial_id, config)
        self.trials.append(trial)
        self.scheduler.on_trial_add(self, trial)  # type: ignore[arg-type]
        return trial

    def _begin_epoch(self, trial: ReplayedTrial, now_s: float) -> None:
        self.order += 1
        heapq.heappush(self.running, (now_s + self.model.epoch_s(trial.config["recipe"]), self.order, trial))

    def _end_epoch(self, trial: ReplayedTrial, now_s: float) -> Epoch:
        trial.epoch += 1
        recipe = trial.config["recipe"]
        result = self.model.metrics(recipe, trial.epoch)
        result |= {"epoch": trial.epoch, "time_this_iter_s": self.model.epoch_s(recipe)}
        decision = self.scheduler.on_trial_result(self, trial, result)  # type: ignore[arg-type]
        if decision != TrialScheduler.STOP:
            self.search.on_trial_result(trial.trial_id, result)
        if self.table:
            self.table.on_trial_result(0, self.trials, trial, result)
        if decision == TrialScheduler.STOP:
            self._complete(trial, result)
        elif decision == TrialScheduler.PAUSE:
            trial.status = "PAUSED"
            self.paused.append(trial)
        else:
            self._begin_epoch(trial, now_s)
        if self.table:
            self.table.on_step_end(0, self.trials)
        return Epoch(trial.config["number"], recipe, trial.epoch, result[METRIC], now_s)

    def _complete(self, trial: ReplayedTrial, result: dict[str, Any]) -> None:
        trial.status = "TERMINATED"
        self.scheduler.on_trial_complete(self, trial, result)  # type: ignore[arg-type]
        self.search.on_trial_complete(trial.trial_id, result)
        if self.table:
            self.table.on_trial_complete(0, self.trials, trial)
