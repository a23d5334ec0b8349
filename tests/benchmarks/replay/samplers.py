"""Samplers that TPE is compared with: random, and around given points and incumbents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.trial import FrozenTrial
from typing_extensions import override

SPREAD = 0.25  # of a parameter's range, as PriorBand's priors have it
KEEP = 0.5  # chance that an incumbent's parameter is left alone
RANDOM_SHARE = 1 / 3
MIN_WHOLE = 3  # trials that ran to the end before incumbents are trusted


def random_at(seed: int, position: int) -> BaseSampler:
    return RandomSampler(seed=_draw(seed, position))


def around_at(points: Sequence[Mapping[str, Any]], seed: int, position: int) -> BaseSampler:
    return AroundSampler(points, _draw(seed, position))


def _draw(seed: int, position: int) -> int:
    return int(np.random.SeedSequence([seed, position]).generate_state(1)[0])


class AroundSampler(RandomSampler):
    """One suggestion of PriorBand's mixture (Mallik et al. 2023, section 5): a third of all are random; the others lie
    around a given point or, once some trials ran to the end, half of them around the best trial so far."""

    def __init__(self, points: Sequence[Mapping[str, Any]], seed: int) -> None:
        super().__init__(seed=seed)
        self.points, self.rng = points, np.random.default_rng(seed)
        self.center: Mapping[str, Any] | None = None
        self.is_incumbent = False

    @override
    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        which, point = self.rng.random(), int(self.rng.integers(len(self.points)))
        if which < RANDOM_SHARE:
            self.center = {}
            return
        whole = study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.COMPLETE,))
        self.is_incumbent = len(whole) >= MIN_WHOLE and which > (1 + RANDOM_SHARE) / 2
        self.center = max(whole, key=lambda one: one.value or 0.0).params if self.is_incumbent else self.points[point]

    @override
    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        assert self.center is not None
        drawn = super().sample_independent(study, trial, param_name, param_distribution)
        if param_name not in self.center:
            return drawn
        value, kept = self.center[param_name], self.rng.random() < KEEP
        if isinstance(param_distribution, CategoricalDistribution):
            return value if kept or value not in param_distribution.choices else drawn
        if self.is_incumbent and kept:
            return value
        return self._near(value, param_distribution)

    def _near(self, value: float, distribution: Any) -> Any:
        low, high = float(distribution.low), float(distribution.high)
        if distribution.log:
            moved = value * (high / low) ** (SPREAD * self.rng.standard_normal())
        else:
            moved = value + SPREAD * (high - low) * self.rng.standard_normal()
        found = min(max(moved, low), high)
        return round(found) if isinstance(distribution, IntDistribution) else found
