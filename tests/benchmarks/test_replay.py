"""The replayed search against a plain loop over Optuna, and against itself."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages import InMemoryStorage

from search.engine.searcher import FamilySearch, sampler_for
from trainables.ray_trainable import METRIC

sys.path.insert(0, str(Path(__file__).parent))  # the benchmarks are scripts, and import each other as such
import bench_search
from replay.curves import PowerLaws
from replay.schedulers import Pasha, family_asha
from replay.simulator import Replay

TASK = PowerLaws("slow_best", seed=1, max_epochs=6)


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_search, "MAX_EPOCHS", 6)
    monkeypatch.setattr(bench_search, "GRACE_EPOCHS", 1)
    optuna.logging.set_verbosity(optuna.logging.WARNING)


def replay_of(scheduler: Any, num_workers: int) -> Replay:
    search = FamilySearch(bench_search.space_of(1), storage=InMemoryStorage(), metric=METRIC)  # type: ignore[arg-type]
    return Replay(search, scheduler, TASK, num_workers=num_workers)


def test_one_worker_without_stopping_is_a_plain_loop() -> None:
    space, study = bench_search.space_of(1), optuna.create_study(direction="maximize")
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
    first, second = (bench_search.table(bench_search.compare("slow_best", 1, 40)) for _ in range(2))
    assert first == second
    assert len(first) == 2 + len(bench_search.METHODS)
