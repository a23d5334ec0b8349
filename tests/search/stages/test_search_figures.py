from __future__ import annotations

import json

import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from search.stages.search_figures import search_figures

DISTS = {"lr": FloatDistribution(0, 1), "decay": FloatDistribution(0, 1), "fixed": FloatDistribution(0, 1)}


def study_of(*states: TrialState) -> optuna.Study:
    study = optuna.create_study(direction="maximize")
    for n, state in enumerate(states):
        params = {"lr": n / 10, "decay": 1 - n / 10, "fixed": 0.5}
        value = n / 10 if state is TrialState.COMPLETE else None
        attrs = {"progress": {"best_miou": n / 10}}
        study.add_trial(create_trial(state=state, value=value, params=params, distributions=DISTS, user_attrs=attrs))
    return study


def test_trials_that_were_stopped_early_are_drawn_too() -> None:
    figures = search_figures(study_of(TrialState.COMPLETE, *[TrialState.PRUNED] * 3), {"decay": 0.9})
    assert list(figures) == ["parallel", "slice-0", "slice-1"]  # what never varied has no plot
    assert json.loads(figures["slice-0"])["layout"]["xaxis"]["title"]["text"] == "decay"  # the most important first
    assert json.loads(figures["slice-0"])["data"][0]["y"] == [0, 0.1, 0.2, 0.3]
    assert len(json.loads(figures["parallel"])["data"]) == 4


def test_two_trials_are_no_plot() -> None:
    assert search_figures(study_of(TrialState.COMPLETE, TrialState.COMPLETE), {}) == {}


def test_plots_copy_no_trial_and_leave_the_study_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    study = study_of(TrialState.COMPLETE, *[TrialState.PRUNED] * 3)
    monkeypatch.setattr(FrozenTrial, "__deepcopy__", lambda *args: pytest.fail("a trial was copied"), raising=False)
    assert search_figures(study, {})
    states = [trial.state for trial in study.get_trials(deepcopy=False)]
    assert states == [TrialState.COMPLETE, *[TrialState.PRUNED] * 3]
