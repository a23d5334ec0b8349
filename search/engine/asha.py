"""ASHA with one bracket per backbone family and kind of head.

What learns slowly at first (large transformers, heads whose queries have to be matched) is compared with its own kind
alone, so quick learners do not end it at the first rung.

Rungs are not part of any Ray snapshot here: they are rebuilt from the study's learning curves (`replay`), which are
on disk before a decision is acted on. Ray's own restore brings rungs back empty.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

from ray.tune.schedulers import ASHAScheduler, TrialScheduler
from typing_extensions import override

from trainables.recipe.recipe import bracket_of


def is_broken(result: Mapping[str, Any], metric: str) -> bool:
    """True where a result ends its trial: flagged as diverged or failed, or its metric is no finite number."""
    value = result.get(metric)
    finite = isinstance(value, (int, float)) and math.isfinite(value)
    return bool(result.get("diverged")) or bool(result.get("failed")) or not finite


def milestones(max_epochs: int, grace_epochs: int, reduction_factor: float) -> list[float]:
    """The epochs at which a trial is compared with its bracket, ascending (Li et al. 2020, algorithm 2)."""
    count = int(math.log(max_epochs / grace_epochs) / math.log(reduction_factor) + 1)
    return [grace_epochs * reduction_factor**k for k in range(count)]


def bracket_in(recipe: Mapping[str, Any]) -> str:
    """The bracket of a recipe that is written as JSON."""
    return bracket_of(recipe["backbone"]["name"], recipe["head"]["name"])


class FamilyASHA(ASHAScheduler):
    """Ray's stopping-type ASHA; a trial's bracket is that of `config["recipe"]`'s backbone family and kind of head.

    Records are kept under `config["number"]`, the number in the study: it outlives Ray's trial ids, so a trial
    that goes on after a crash is neither counted twice nor compared with itself.
    """

    def __init__(self, *, metric: str, max_epochs: int, grace_epochs: int, reduction_factor: float) -> None:
        super().__init__(
            time_attr="epoch",
            metric=metric,
            mode="max",
            max_t=max_epochs,
            grace_period=grace_epochs,
            reduction_factor=reduction_factor,
        )
        self._name = metric
        self._by_name: dict[str, Any] = {}

    def bracket(self, name: str) -> Any:
        """The bracket of that name (see `bracket_of`), made on first use."""
        if name not in self._by_name:
            self._by_name[name] = copy.deepcopy(self._brackets[0])
        return self._by_name[name]

    def rungs(self) -> dict[str, dict[float, dict[int, float]]]:
        """bracket -> milestone (epochs) -> trial number -> metric, as recorded so far."""
        return {
            name: {milestone: dict(records) for milestone, records in reversed(bracket._rungs)}
            for name, bracket in self._by_name.items()
        }

    def replay(self, recipe: Mapping[str, Any], number: int, curve: Mapping[int, float]) -> None:
        """Records one earlier learning curve (epoch -> metric). The order of replayed trials does not matter.

        As a bracket's `on_result` does, but for the cutoff, which looks at all records of a rung.
        """
        rungs = self.bracket(bracket_in(recipe))._rungs  # the highest first
        for epoch in sorted(curve):
            for milestone, recorded in rungs:
                if epoch >= milestone and number not in recorded:
                    recorded[number] = curve[epoch]
                    break

    @override
    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """Also called when a failed trial is queued again: the same recipe, so the same bracket."""
        self._trial_info[trial.trial_id] = self.bracket(bracket_in(trial.config["recipe"]))

    @override
    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        if is_broken(result, self._name):
            self._num_stopped += 1
            return str(TrialScheduler.STOP)
        action = self._record(trial, result)
        if result[self._time_attr] >= self._max_t:
            action = TrialScheduler.STOP
        self._num_stopped += action == TrialScheduler.STOP
        return action

    @override
    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        if not is_broken(result, self._name):
            self._record(trial, result)
        self._trial_info.pop(trial.trial_id, None)

    @override
    def on_trial_remove(self, tune_controller: Any, trial: Any) -> None:
        self._trial_info.pop(trial.trial_id, None)

    def _record(self, trial: Any, result: Mapping[str, Any]) -> str:
        key = SimpleNamespace(trial_id=trial.config["number"])
        bracket = self._trial_info[trial.trial_id]
        return str(bracket.on_result(key, result[self._time_attr], result[self._name]))
