"""ASHA with one bracket per backbone family.

Families that learn slowly at first (large transformers) are compared with their own kind alone, so quick learners do
not end them at the first rung.

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

from trainables.recipe.recipe import backbone_family


def is_broken(result: Mapping[str, Any], metric: str) -> bool:
    """True where a result ends its trial: flagged as diverged or failed, or its metric is no finite number."""
    value = result.get(metric)
    finite = isinstance(value, (int, float)) and math.isfinite(value)
    return bool(result.get("diverged")) or bool(result.get("failed")) or not finite


def milestones(max_epochs: int, grace_epochs: int, reduction_factor: float) -> list[float]:
    """The epochs at which a trial is compared with its family, ascending (Li et al. 2020, algorithm 2)."""
    count = int(math.log(max_epochs / grace_epochs) / math.log(reduction_factor) + 1)
    return [grace_epochs * reduction_factor**k for k in range(count)]


class FamilyASHA(ASHAScheduler):
    """Ray's stopping-type ASHA; a trial's bracket is that of `config["recipe"]`'s backbone family.

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
        self._family_brackets: dict[str, Any] = {}

    def bracket(self, family: str) -> Any:
        """The family's bracket, made on first use."""
        if family not in self._family_brackets:
            self._family_brackets[family] = copy.deepcopy(self._brackets[0])
        return self._family_brackets[family]

    def rungs(self) -> dict[str, dict[float, dict[int, float]]]:
        """family -> milestone (epochs) -> trial number -> metric, as recorded so far."""
        return {
            family: {milestone: dict(records) for milestone, records in reversed(bracket._rungs)}
            for family, bracket in self._family_brackets.items()
        }

    def replay(self, family: str, number: int, curve: Mapping[int, float]) -> None:
        """Records one earlier learning curve (epoch -> metric). The order of replayed trials does not matter."""
        for epoch in sorted(curve):
            self.bracket(family).on_result(SimpleNamespace(trial_id=number), epoch, curve[epoch])

    @override
    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """Also called when a failed trial is queued again: the same family, so the same bracket."""
        family = backbone_family(trial.config["recipe"]["backbone"]["name"])
        self._trial_info[trial.trial_id] = self.bracket(family)

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
