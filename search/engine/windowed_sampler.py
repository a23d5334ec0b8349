"""A sampler that learns from some of a study's trials, so that a suggestion takes no longer in a search of ten thousand
trials than in one of a thousand."""

from __future__ import annotations

from typing import Any

from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState
from typing_extensions import override

from search.engine.study_window import StudyWindow

BEST_SHARE = 0.25  # of the window, which the best whole trials have; the newest ones have the rest


class WindowedSampler(BaseSampler):
    """Shows `sampler` at most `num_seen` of a study's ended trials, and all that run.

    One object serves one suggestion, whose calls Optuna begins with `infer_relative_search_space`. The study is read
    then, once: TPE reads it once per group of parameters, which takes longer than its arithmetic where the study is on
    disk.
    """

    def __init__(self, sampler: BaseSampler, num_seen: int) -> None:
        self.sampler, self.num_seen = sampler, num_seen
        self._window: StudyWindow | None = None

    @override
    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        self._window = StudyWindow(study, window(study.get_trials(deepcopy=False), self.num_seen))
        return self.sampler.infer_relative_search_space(self._window, trial)

    @override
    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        assert self._window is not None
        return self.sampler.sample_relative(self._window, trial, search_space)

    @override
    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        assert self._window is not None
        return self.sampler.sample_independent(self._window, trial, param_name, param_distribution)


def window(trials: list[FrozenTrial], num_seen: int) -> list[FrozenTrial]:
    """At most `num_seen` of the ended trials, the best whole ones and the newest, and all that run, in their order."""
    ended = [one for one in trials if one.state in (TrialState.COMPLETE, TrialState.PRUNED)]
    if len(ended) <= num_seen:
        return trials
    whole = sorted((one for one in ended if one.state is TrialState.COMPLETE), key=lambda one: -(one.value or 0.0))
    kept = {one.number for one in whole[: int(BEST_SHARE * num_seen)]}
    for one in reversed(ended):
        if len(kept) >= num_seen:
            break
        kept.add(one.number)
    return [one for one in trials if one.number in kept or not one.state.is_finished()]
