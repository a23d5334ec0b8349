"""Schedulers that FamilyASHA is compared with: none, one bracket for all, one epoch and then the best, and PASHA."""

from __future__ import annotations

from typing import Any

import numpy as np
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from typing_extensions import override

from search.engine.asha import FamilyASHA, milestones
from trainables.ray_trainable import METRIC

REDUCTION_FACTOR = 3


def family_asha(max_epochs: int, grace_epochs: int) -> FamilyASHA:
    return FamilyASHA(
        metric=METRIC, max_epochs=max_epochs, grace_epochs=grace_epochs, reduction_factor=REDUCTION_FACTOR
    )


class PlainASHA(FamilyASHA):
    """One bracket for all families, as Ray's own."""

    @override
    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        self._trial_info[trial.trial_id] = self.bracket("all")


class Pausing(FIFOScheduler):
    """Keeps every result; a subclass says which trials rest after an epoch, and which of them goes on."""

    def __init__(self, max_epochs: int) -> None:
        super().__init__()
        self.max_epochs = max_epochs
        self.values: dict[int, dict[Any, float]] = {}  # epoch -> trial -> mIoU
        self.num_trials = 0

    @override
    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        self.num_trials += 1

    @override
    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        epoch = result["epoch"]
        self.values.setdefault(epoch, {})[trial] = result[METRIC]
        if epoch >= self.max_epochs:
            return str(TrialScheduler.STOP)
        return str(TrialScheduler.PAUSE if self.rests(epoch) else TrialScheduler.CONTINUE)

    @override
    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """Its values stay."""

    def rests(self, epoch: int) -> bool:
        raise NotImplementedError


class OneEpochThenBest(Pausing):
    """A third of the budget on one epoch per trial; then the best go to the end, one after the other."""

    def __init__(self, max_epochs: int, budget_epochs: int) -> None:
        super().__init__(max_epochs)
        self.num_screened = budget_epochs // 3

    @override
    def rests(self, epoch: int) -> bool:
        return epoch == 1

    @override
    def choose_trial_to_run(self, tune_controller: Any) -> Any:
        if len(self.values[1]) < self.num_screened:
            return None
        return max(tune_controller.get_trials(), key=self.values[1].__getitem__)


class Pasha(Pausing):
    """Progressive ASHA (Bohdal et al. 2023, algorithm 1): trials are promoted as in ASHA, but only up to a rung that
    rises while the ranking of the two highest rungs differs.

    Ranks count as equal within `tolerance` mIoU, which is given here, where the paper estimates it from crossings.
    """

    def __init__(self, max_epochs: int, grace_epochs: int, tolerance: float) -> None:
        super().__init__(max_epochs)
        self.rungs = [int(epoch) for epoch in milestones(max_epochs, grace_epochs, REDUCTION_FACTOR)]
        self.top, self.tolerance = 1, tolerance
        self.promoted: dict[int, set[Any]] = {epoch: set() for epoch in self.rungs}

    @override
    def rests(self, epoch: int) -> bool:
        if epoch == self.rungs[self.top] and self.top + 1 < len(self.rungs) and not self._is_stable():
            self.top += 1
        return epoch in self.rungs

    @override
    def choose_trial_to_run(self, tune_controller: Any) -> Any:
        for epoch in reversed(self.rungs[: self.top]):
            values = self.values.get(epoch, {})
            best = sorted(values, key=values.__getitem__, reverse=True)[: len(values) // REDUCTION_FACTOR]
            for trial in best:
                if trial not in self.promoted[epoch]:
                    self.promoted[epoch].add(trial)
                    return trial
        return None

    def _is_stable(self) -> bool:
        """Whether each trial of the highest rung has, in the rung below, its place or one within the tolerance."""
        high, low = (self.values[self.rungs[rung]] for rung in (self.top, self.top - 1))
        trials = list(high)
        order_high = sorted(trials, key=high.__getitem__)
        order_low = sorted(trials, key=low.__getitem__)
        gaps = [abs(low[a] - low[b]) for a, b in zip(order_high, order_low, strict=True)]
        return bool(np.max(gaps) <= self.tolerance)
