"""TPE over a window of a study: what it suggests, against TPE over a study that holds those trials alone."""

from __future__ import annotations

import optuna
import pytest
from optuna.samplers import RandomSampler, TPESampler
from optuna.trial import TrialState

from search.engine.windowed_sampler import WindowedSampler


def objective(trial: optuna.Trial) -> float:
    kind = trial.suggest_categorical("kind", ["a", "b"])
    return trial.suggest_float(f"{kind}/x", 0.0, 1.0) + (0.5 if kind == "a" else 0.0)


def study_of(numbers: range) -> optuna.Study:
    """Trials that are functions of their number; every third was stopped early."""
    study = optuna.create_study(direction="maximize")
    for number in numbers:
        study.sampler = RandomSampler(seed=number)
        trial = study.ask()
        value = objective(trial)
        trial.report(value, 1)
        if number % 3:
            study.tell(trial, value)
        else:
            study.tell(trial, state=TrialState.PRUNED)
    return study


def suggestion(study: optuna.Study, num_seen: int | None) -> dict[str, object]:
    tpe = TPESampler(multivariate=True, group=True, constant_liar=True, n_startup_trials=1, seed=7)
    study.sampler = tpe if num_seen is None else WindowedSampler(tpe, num_seen)
    trial = study.ask()
    objective(trial)
    return trial.params


@pytest.fixture(autouse=True)
def quiet() -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_a_study_that_fits_the_window_is_seen_as_it_is() -> None:
    assert suggestion(study_of(range(30)), 30) == suggestion(study_of(range(30)), None)


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_a_longer_study_counts_as_its_best_and_newest_trials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("search.engine.windowed_sampler.BEST_SHARE", 0.0)
    assert suggestion(study_of(range(60)), 30) == suggestion(study_of(range(30, 60)), None)


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_the_best_trial_stays_however_old_it_is() -> None:
    study = study_of(range(60))
    best = max(study.get_trials(states=(TrialState.COMPLETE,)), key=lambda trial: trial.value or 0.0)
    sampler = WindowedSampler(TPESampler(seed=0), 8)
    window, twin = sampler._window(study, study.trials[-1])
    kept = [trial.params for trial in window.get_trials(deepcopy=False)[:-1]]
    assert best.params in kept
    assert len(kept) == 8
    assert twin.params == study.trials[-1].params
