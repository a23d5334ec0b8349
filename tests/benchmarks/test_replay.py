"""The replayed search against a plain loop over Optuna, and against itself."""

from __future__ import annotations

import itertools
import sys
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import optuna
import pytest
from optuna.storages import InMemoryStorage

from search.engine.ray_callback import TrialTable
from search.engine.searcher import FamilySearch, sampler_for
from search.engine.study_file import STUDY_NAME, close_storage, open_storage, open_study
from search.observers.event_log import append_event, curves, read_events
from search.observers.search_forecast import Lengths, SearchForecast
from search.observers.trial_row import Observer, TrialRow
from search.run_dir import RunDir
from search.space.space import load_space
from trainables.ray_trainable import METRIC

sys.path.insert(0, str(Path(__file__).parent))  # the benchmarks are scripts, and import each other as such
import bench_cost
import bench_search
from replay.copies import copy_trials
from replay.costs import CostlyTask, CostTPE
from replay.curves import PowerLaws
from replay.folds import FoldScores, fold_effects
from replay.recorded import RecordedTask, Training
from replay.samplers import random_at
from replay.schedulers import Pasha, family_asha
from replay.simulator import Replay

TASK = PowerLaws("slow_best", seed=1, max_epochs=6, grace_epochs=1)


@pytest.fixture(autouse=True)
def quiet() -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)


def replay_of(scheduler: Any, num_workers: int) -> Replay:
    search = FamilySearch(bench_search.space_of(TASK), storage=InMemoryStorage(), metric=METRIC)  # type: ignore[arg-type]
    return Replay(search, scheduler, TASK, num_workers=num_workers)


def bench_recipe(position: int) -> dict[str, Any]:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=position))
    return bench_search.space_of(TASK).suggest(study.ask()).model_dump(mode="json")


def test_one_worker_without_stopping_is_a_plain_loop() -> None:
    space, study = bench_search.space_of(TASK), optuna.create_study(direction="maximize")
    expected = []
    for number in range(24):
        if number < len(space.defaults()):
            study.enqueue_trial(space.defaults()[number])
        study.sampler = sampler_for(number, seed=1, num_random=len(space.defaults()) + 10)
        trial = study.ask()
        recipe = space.suggest(trial).model_dump(mode="json")
        curve = [TASK.metrics(recipe, epoch)[METRIC] for epoch in range(1, 7)]
        study.tell(trial, max(curve))
        expected += [(number, epoch, value) for epoch, value in enumerate(curve, start=1)]
    epochs = replay_of(family_asha(6, 6), 1).epochs()
    assert [(one.number, one.epoch, one.miou) for one, _ in zip(epochs, expected, strict=False)] == expected


def test_workers_take_turns_by_simulated_time() -> None:
    epochs = [one for one, _ in zip(replay_of(family_asha(6, 1), 3).epochs(), range(60), strict=False)]
    assert [one.at_s for one in epochs] == sorted(one.at_s for one in epochs)
    begun = {one.number: index for index, one in reversed(list(enumerate(epochs)))}
    assert begun[1] < max(index for index, one in enumerate(epochs) if one.number == 0)


def test_paused_trials_go_on_where_they_stopped() -> None:
    epochs = [one for one, _ in zip(replay_of(Pasha(6, 1, 0.0), 2).epochs(), range(150), strict=False)]
    for number in {one.number for one in epochs}:
        seen = [one.epoch for one in epochs if one.number == number]
        assert seen == list(range(1, len(seen) + 1))
    assert max(one.epoch for one in epochs) > 1


def test_the_same_seed_gives_the_same_table() -> None:
    first, second = (bench_search.table(bench_search.compare([TASK], 40)) for _ in range(2))
    assert first == second
    assert len(first) == 2 + len(bench_search.METHODS)


def test_copied_trials_are_those_of_the_search_under_later_numbers(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    storage = open_storage(run.study_db)
    study = optuna.create_study(study_name=STUDY_NAME, storage=storage, direction="maximize")
    for number in range(2):
        trial = study.ask()
        trial.suggest_float("lr", 0.0, 1.0)
        trial.report(0.1 * number, 1)
        trial.set_user_attr("identity", {"number": number})
        study.tell(trial, 0.5)
        append_event(run.events, {"at": 0.0, "event": "epoch", "trial": f"{number:05d}", "epoch": 1})
    close_storage(storage)
    copy_trials(run, 5)
    copied = open_study(run.study_db).trials
    assert [trial.number for trial in copied] == list(range(5))
    for trial in copied:
        own = copied[trial.number % 2]
        assert (trial.params, trial.intermediate_values) == (own.params, own.intermediate_values)
        assert (trial.value, trial.user_attrs["identity"]) == (0.5, {"number": trial.number % 2})
    assert sorted(curves(read_events(run.events))) == [f"{number:05d}" for number in range(5)]


class Watch(Observer):
    """Tells a forecast of a replay, by its simulated clock."""

    def __init__(self, forecast: SearchForecast) -> None:
        self.forecast, self.replay = forecast, cast(Replay, None)

    def trial_started(self, row: TrialRow) -> None:
        self.forecast.started(row.number, self.replay.now_s)

    def epoch(self, row: TrialRow, metrics: Any) -> None:
        self.forecast.epoch(row.number, self.replay.now_s)

    def trial_ended(self, row: TrialRow) -> None:
        self.forecast.ended(row.number)


def test_the_time_left_of_a_search_is_about_what_was_left_and_does_not_jump(tmp_path: Path) -> None:
    settings = {"num_trials": 40, "max_epochs": 6, "grace_epochs": 1}
    space = load_space("all.yaml", overrides=[f"search.{key}={value}" for key, value in settings.items()])
    storage, watch = open_storage(tmp_path / "study.db"), Watch(SearchForecast(Lengths(2.0, 6)))
    search = FamilySearch(space, storage=storage, metric=METRIC, sampler_at=partial(random_at, 0))
    table = TrialTable(search, search, [watch], METRIC)  # type: ignore[arg-type]
    watch.replay = Replay(search, family_asha(6, 1), TASK, num_workers=4, table=table)
    watch.forecast.begin(table.rows, 40)
    told = [(watch.replay.now_s, watch.forecast.left_s(watch.replay.now_s) or 0.0) for _ in watch.replay.epochs()]
    storage.engine.dispose()
    end_s = watch.replay.now_s
    middle = [left_s / (end_s - at_s) for at_s, left_s in told if 0.2 * end_s < at_s < 0.8 * end_s]
    assert min(middle) > 0.6
    assert max(middle) < 1.7
    for (before_s, left_s), (now_s, then_s) in itertools.pairwise(told):
        assert abs(then_s - (left_s - (now_s - before_s))) < 0.1 * end_s


def test_effects_of_folds_are_found_beside_those_of_brackets_and_shrunk_where_they_are_noise() -> None:
    rng, true = np.random.default_rng(0), np.array([0.05, -0.03, 0.0, -0.02])
    folds, brackets, noise = rng.integers(0, 4, 60), rng.integers(0, 3, 60), rng.normal(0, 0.002, 60)

    def found(values: np.ndarray) -> np.ndarray:
        rows = zip(brackets.tolist(), folds.tolist(), values.tolist(), strict=True)
        return fold_effects([(str(bracket), fold, value) for bracket, fold, value in rows], 4)

    np.testing.assert_allclose(found(0.1 * brackets + true[folds] + noise), true, atol=0.002)
    left = noise - np.array([noise[brackets == bracket].mean() for bracket in range(3)])[brackets]
    means = [left[folds == fold].mean() for fold in range(4)]
    assert np.linalg.norm(found(0.1 * brackets + noise)) < np.linalg.norm(means)


def test_one_fold_s_scores_stay_as_they_are() -> None:
    assert fold_effects([("a", 0, 0.5), ("b", 0, 0.7), ("a", 0, 0.6)], 1).tolist() == [0.0]
    model = FoldScores(TASK, 0.01, num_folds=3)
    for position in range(7):
        model.metrics(bench_recipe(position), 1)
    assert list(model.fold_of.values()) == [0, 1, 2, 0, 1, 2, 0]


def test_a_recorded_curve_is_that_of_the_nearest_recipe() -> None:
    trainings = {
        key: Training(curve=curve, holdout=0.5)
        for key, curve in {
            "test_resnet/none/0.001": (0.2, 0.4),
            "test_resnet/none/0.004": (0.3, 0.5),
            "test_convnext/none/0.002": (0.1, 0.6),
        }.items()
    }
    task = RecordedTask(trainings, seed=0, max_epochs=2)
    recipe = {"backbone": {"name": "test_resnet"}, "loss": {"class_weights": "none"}, "optimizer": {"lr": 0.0019}}
    assert [task.metrics(recipe, epoch)[METRIC] for epoch in (1, 2)] == [0.2, 0.4]
    assert task.metrics({**recipe, "optimizer": {"lr": 0.0021}}, 2) == {METRIC: 0.5}
    assert task.metrics({**recipe, "loss": {"class_weights": "inverse_sqrt"}}, 1) == {METRIC: 0.2}
    assert task.slow_family == "convnext"
    bench_search.space_of(task)  # its space can be searched


def test_a_budget_is_spent_to_the_last_epoch_that_it_pays_for() -> None:
    task = CostlyTask("alike", seed=1, max_epochs=6, grace_epochs=1)
    paid = list(bench_cost.Purse(2000.0).pay(replay_of(family_asha(6, 1), 2).epochs(), task.epoch_s))
    assert [spent_s for spent_s, _ in paid] == list(itertools.accumulate(task.epoch_s(one.recipe) for _, one in paid))
    assert 1800.0 < paid[-1][0] <= 2000.0  # an epoch costs 200 s at most


@pytest.mark.parametrize(("weight", "cheap"), [(0.0, False), (1.0, True)])
def test_tpe_takes_the_cheap_choice_of_two_that_are_alike_where_cost_counts(weight: float, cheap: bool) -> None:
    costs = {"model": {"dear": 10.0, "cheap": 1.0}}
    study = optuna.create_study(direction="maximize")
    for number in range(20):  # the dear one is a trifle better
        trial = study.ask({"model": optuna.distributions.CategoricalDistribution(["dear", "cheap"])})
        study.tell(trial, 0.5 + 0.01 * (number % 5) + (0.005 if trial.params["model"] == "dear" else 0.0))
    found = []
    for seed in range(20):
        study.sampler = CostTPE(costs, weight, multivariate=True, n_startup_trials=1, seed=seed)
        found.append(study.ask().suggest_categorical("model", ["dear", "cheap"]))
    assert (found.count("cheap") > 15) == cheap
