"""A sampler that learns from some of a study's trials, so that a suggestion takes no longer in a search of ten thousand
trials than in one of a thousand."""

from __future__ import annotations

from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState, create_trial
from typing_extensions import override

BEST_SHARE = 0.25  # of the window, which the best whole trials have; the newest ones have the rest


class WindowedSampler(BaseSampler):
    """Shows `sampler` a study in memory of at most `num_seen` ended trials and of all that run. A study with no more is
    shown as it is, so that nothing changes there.

    One object serves one suggestion, whose calls Optuna begins with `infer_relative_search_space`.
    """

    def __init__(self, sampler: BaseSampler, num_seen: int) -> None:
        self.sampler, self.num_seen = sampler, num_seen
        self._seen: tuple[Study, FrozenTrial] | None = None  # and the trial in it that a suggestion is for

    @override
    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        self._seen = self._window(study, trial)
        return self.sampler.infer_relative_search_space(*self._seen)

    @override
    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        assert self._seen is not None
        return self.sampler.sample_relative(*self._seen, search_space)

    @override
    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        assert self._seen is not None
        return self.sampler.sample_independent(*self._seen, param_name, param_distribution)

    def _window(self, study: Study, trial: FrozenTrial) -> tuple[Study, FrozenTrial]:
        every = [one for one in study.get_trials(deepcopy=False) if one.number != trial.number]
        ended = [one for one in every if one.state in (TrialState.COMPLETE, TrialState.PRUNED)]
        if len(ended) <= self.num_seen:
            return study, trial
        whole = sorted((one for one in ended if one.state is TrialState.COMPLETE), key=lambda one: -(one.value or 0.0))
        kept = {one.number for one in whole[: int(BEST_SHARE * self.num_seen)]}
        for one in reversed(ended):
            if len(kept) >= self.num_seen:
                break
            kept.add(one.number)
        window = optuna.create_study(direction="maximize")
        for one in every:
            if one.number in kept or one.state is TrialState.RUNNING:
                window.add_trial(_bare(one))
        window.add_trial(_bare(trial))
        return window, window.get_trials(deepcopy=False)[-1]


def _bare(trial: FrozenTrial) -> FrozenTrial:
    """A trial without its attributes, of which recipes are the largest part."""
    return create_trial(
        state=trial.state,
        value=trial.value if trial.state is TrialState.COMPLETE else None,
        params=trial.params,
        distributions=trial.distributions,
        intermediate_values=trial.intermediate_values,
    )
