"""TPE over a window of a study: what it suggests, against TPE over a study that holds those trials alone."""

from __future__ import annotations

import optuna
import pytest
from optuna.samplers import RandomSampler, TPESampler
from optuna.trial import TrialState

from search.engine.windowed_sampler import WindowedSampler, window


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
@pytest.mark.parametrize("num_seen", [10, 1000])
def test_a_suggestion_reads_the_study_once(monkeypatch: pytest.MonkeyPatch, num_seen: int) -> None:
    study = study_of(range(30))
    reads, read = [], study._storage.get_all_trials
    monkeypatch.setattr(
        study._storage, "get_all_trials", lambda *args, **kwargs: reads.append(args) or read(*args, **kwargs)
    )
    study.sampler = RandomSampler(seed=0)
    study.ask()
    by_ask = len(reads)
    suggestion(study, num_seen)
    assert len(reads) == 2 * by_ask + 1


def test_the_best_trial_stays_however_old_it_is() -> None:
    trials = study_of(range(60)).trials
    best = max((trial for trial in trials if trial.state is TrialState.COMPLETE), key=lambda trial: trial.value or 0.0)
    kept = window(trials, 8)
    assert best in kept
    assert len(kept) == 8
    assert kept == sorted(kept, key=lambda trial: trial.number)


def test_trials_that_run_are_always_seen() -> None:
    study = study_of(range(60))
    running = study.ask()
    assert running.number in {trial.number for trial in window(study.trials, 8)}
