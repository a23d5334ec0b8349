from __future__ import annotations

import math

import numpy as np
import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import create_trial

from search.stages.importances import importances, top_importances

SPACE = {
    "model/backbone": CategoricalDistribution(["a", "b", "c"]),
    "optimizer/lr": FloatDistribution(1e-5, 1e-2, log=True),
    "train/ema_decay": FloatDistribution(0.9, 0.999),
}
BRANCH = {"model/backbone/c/drop_path": FloatDistribution(0.0, 0.4)}
SKILL = {"a": 0.1, "b": 0.3, "c": 0.5}


def study_of(num_trials: int) -> optuna.Study:
    """The backbone decides most of the score, a learning rate too far from 10**-3.5 breaks it, the rest is noise."""
    rng, study = np.random.default_rng(0), optuna.create_study(direction="maximize")
    for _ in range(num_trials):
        params = {"model/backbone": str(rng.choice(list("abc"))), "optimizer/lr": 10 ** rng.uniform(-5, -2)}
        params |= {"train/ema_decay": rng.uniform(0.9, 0.999)}
        value = SKILL[params["model/backbone"]] - 0.03 * (math.log10(params["optimizer/lr"]) + 3.5) ** 2
        distributions = dict(SPACE)
        if params["model/backbone"] == "c":
            params, distributions = params | {next(iter(BRANCH)): rng.uniform(0, 0.4)}, SPACE | BRANCH
        study.add_trial(create_trial(value=value, params=params, distributions=distributions))
    return study


def test_what_decides_the_score_comes_first() -> None:
    shares, notes = importances(study_of(60))
    assert max(shares, key=lambda name: shares[name]) == "model/backbone"
    assert shares["train/ema_decay"] < 0.1
    assert notes == []


def test_the_best_tenth_is_what_optuna_weighs_by_default() -> None:
    study = study_of(60)
    assert top_importances(study) == optuna.importance.get_param_importances(study)
    assert set(top_importances(study)) == {*SPACE, *BRANCH}


def test_optuna_dashboard_shows_the_best_tenth() -> None:
    module = pytest.importorskip("optuna_dashboard._importance")
    from optuna_dashboard._inmemory_cache import InMemoryCache

    study = study_of(60)
    shown = module.get_param_importance_from_trials_cache(
        InMemoryCache(), study._storage, study._study_id, 0, study.get_trials()
    )
    assert {one["name"]: one["importance"] for one in shown} == pytest.approx(top_importances(study))


def test_few_trials_are_not_weighed() -> None:
    shares, notes = importances(study_of(3))
    assert (shares, top_importances(study_of(3))) == ({}, {})
    assert notes == ["parameter importances need 4 trials that ran to the end, got 3"]
