"""The searcher against the study on disk, without Ray's processes."""

from __future__ import annotations

import pickle
import warnings
from pathlib import Path
from typing import Any

import optuna
import pytest
from ray.tune.search import Searcher
from sqlalchemy import event

from search.engine.searcher import FamilySearch, sampler_for
from search.engine.study_file import open_storage, open_study


@pytest.fixture
def search_at(toy: Any, tmp_path: Path) -> Any:
    def make(num_trials: int = 4, seed: int = 0, defaults: Any = None, file: str = "study.db") -> FamilySearch:
        space = toy.space_of(seed, first=defaults, num_trials=num_trials)
        return FamilySearch(space, storage=open_storage(tmp_path / file), metric="val/miou")

    return make


def finish(search: FamilySearch, trial_id: str, num_epochs: int = 9, miou: float = 0.1) -> None:
    search.on_trial_result(trial_id, {"epoch": 1, "val/miou": miou})
    search.on_trial_complete(trial_id, {"epoch": num_epochs, "val/miou": miou * num_epochs})


def test_config_holds_recipe_number_and_checkpoint_alone(search_at: Any, toy: Any) -> None:
    search = search_at()
    config = search.suggest("a")
    assert config.keys() == {"recipe", "number", "resume_from"}
    assert config["recipe"] == toy.recipe_with(1e-3, "convnext_atto").model_dump(mode="json")
    assert (config["number"], config["resume_from"]) == (0, None)


def test_the_study_names_its_metric(search_at: Any, tmp_path: Path) -> None:
    search_at()
    assert open_study(tmp_path / "study.db").metric_names == ["val/miou"]


@pytest.mark.parametrize(
    ("last", "state", "outcome", "value"),
    [
        ({"epoch": 9, "val/miou": 0.5}, "COMPLETE", "COMPLETE", 0.5),
        ({"epoch": 3, "val/miou": 0.5}, "PRUNED", "PRUNED", 0.5),
        ({"epoch": 3, "val/miou": float("nan")}, "FAIL", "DIVERGED", None),
        ({"epoch": 3, "val/miou": 0.0, "diverged": True}, "FAIL", "DIVERGED", None),
        ({"epoch": 0, "val/miou": 0.0, "failed": "out of memory"}, "FAIL", "FAIL", None),
        ({"done": True}, "FAIL", "FAIL", None),
    ],
)
def test_study_is_told_what_happened(search_at: Any, last: Any, state: str, outcome: str, value: Any) -> None:
    search = search_at()
    search.suggest("a")
    search.on_trial_complete("a", last)
    trial = search.study.trials[0]
    assert (trial.state.name, trial.value, search.outcomes[0]) == (state, value, outcome)


def test_error_is_told_as_fail_and_the_search_goes_on(search_at: Any) -> None:
    search = search_at(num_trials=1)
    search.suggest("a")
    assert search.suggest("b") is None
    search.on_trial_complete("a", error=True)
    assert search.outcomes == {0: "FAIL"}
    assert search.suggest("b") == Searcher.FINISHED
    assert search.is_done


def test_complete_trial_has_its_best_epochs_value(search_at: Any) -> None:
    search = search_at()
    search.suggest("a")
    search.on_trial_result("a", {"epoch": 8, "val/miou": 0.7})
    search.on_trial_complete("a", {"epoch": 9, "val/miou": 0.6})
    assert search.study.trials[0].value == 0.7


def test_a_trial_s_end_is_one_write_and_no_read(search_at: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    search, calls = search_at(), []
    for trial_id in "abc":
        search.suggest(trial_id)
    event.listen(search._rdb.engine, "commit", lambda connection: calls.append("commit"))
    for name in ("get_trial", "get_all_trials"):
        monkeypatch.setattr(search.study._storage, name, lambda *args, **kwargs: pytest.fail("the study was read"))
    search.frozen(0)
    search.on_trial_complete("a", error=True)
    finish(search, "b")
    finish(search, "c", num_epochs=3)
    assert search.outcomes == {0: "FAIL", 1: "COMPLETE", 2: "PRUNED"}
    assert len(calls) == 3 + 2 * 2  # and two reports each of those that ran


def test_running_trials_of_a_dead_driver_are_adopted(search_at: Any, tmp_path: Path) -> None:
    first = search_at()
    for trial_id in "abc":
        first.suggest(trial_id)
    finish(first, "a")
    first.on_trial_result("b", {"epoch": 1, "val/miou": 0.2})
    first.note(1, "checkpoint", {"path": str(tmp_path), "epoch": 1})

    second = search_at()
    assert [trial.state.name for trial in second.study.trials] == ["COMPLETE", "RUNNING", "RUNNING"]
    configs = [second.suggest(trial_id) for trial_id in "defg"]
    assert [config["number"] for config in configs[:3]] == [1, 2, 3]
    assert [config["resume_from"] for config in configs[:3]] == [str(tmp_path), None, None]
    assert configs[3] is None  # four in all, as asked for
    finish(second, "d")
    assert second.study.trials[1].intermediate_values[1] == 0.2  # the first report stands


def test_trial_that_died_after_its_last_checkpoint_is_complete(search_at: Any, tmp_path: Path) -> None:
    first = search_at(num_trials=1)
    first.suggest("a")
    first.on_trial_result("a", {"epoch": 9, "val/miou": 0.4})
    first.note(0, "checkpoint", {"path": str(tmp_path), "epoch": 9})
    second = search_at(num_trials=1)
    assert second.is_done
    assert second.study.trials[0].value == 0.4


def test_lost_checkpoint_is_said_and_the_trial_starts_over(search_at: Any, tmp_path: Path) -> None:
    first = search_at(num_trials=1)
    first.suggest("a")
    first.note(0, "checkpoint", {"path": str(tmp_path / "gone"), "epoch": 3})
    with pytest.warns(UserWarning, match="trial 0 starts over"):
        assert search_at(num_trials=1).suggest("b")["resume_from"] is None


@pytest.mark.parametrize("before", ["", "/old/run/"])
def test_a_checkpoint_is_found_where_the_run_was_moved_to(search_at: Any, tmp_path: Path, before: str) -> None:
    """Earlier versions stored absolute paths."""
    stored = f"{before}tune/session-000/00000/checkpoint_000001"
    first = search_at(num_trials=1)
    first.suggest("a")
    first.note(0, "checkpoint", {"path": stored, "epoch": 3})
    moved = tmp_path / "tune" / "session-000" / "00000" / "checkpoint_000001"
    moved.mkdir(parents=True)
    assert search_at(num_trials=1).suggest("b")["resume_from"] == str(moved)


def test_interrupted_search_suggests_what_an_uninterrupted_one_does(search_at: Any) -> None:
    def recipes(search: FamilySearch, names: str) -> list[Any]:
        found = []
        for name in names:
            config = search.suggest(name)
            found.append(config["recipe"])
            finish(search, name, miou=0.01 * len(config["recipe"]["backbone"]["name"]))
        return found

    whole = recipes(search_at(num_trials=20, file="whole.db"), "abcdefghijklmnopqrst")
    parts = recipes(search_at(num_trials=20), "abcdefghi") + recipes(search_at(num_trials=20), "jklmnopqrst")
    assert parts == whole
    assert len({str(recipe) for recipe in whole}) == 20


def test_random_trials_differ_from_each_other_and_by_seed(toy: Any) -> None:
    def draw(position: int, seed: int) -> float:
        study = optuna.create_study(sampler=sampler_for(position, seed, num_random=9))
        return float(toy.suggest(study.ask()).optimizer.lr)

    assert draw(0, 0) == draw(0, 0)
    assert len({draw(position, seed) for position in range(3) for seed in range(3)}) == 9


def test_later_trials_are_tpes_and_find_the_better_family(search_at: Any, toy: Any) -> None:
    search = search_at(num_trials=40)
    for number in range(40):
        config = search.suggest(str(number))
        miou = toy.curve(toy.recipe_with(config["recipe"]["optimizer"]["lr"]), 9)
        swin = config["recipe"]["backbone"]["name"] == "swin_tiny"
        search.on_trial_complete(str(number), {"epoch": 9, "val/miou": miou * (0.5 if swin else 1)})
    late = [trial.params["model/backbone"] for trial in search.study.trials[20:]]
    assert late.count("convnext_atto") > 14


def test_sampler_is_multivariate_and_grouped() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sampler: Any = sampler_for(9, 0, num_random=9).sampler  # type: ignore[attr-defined]
    assert (sampler._multivariate, sampler._group, sampler._constant_liar) == (True, True, True)


def test_recipe_that_does_not_fit_is_refused_when_it_is_drawn(toy: Any, tmp_path: Path) -> None:
    def admit(recipe: Any) -> Any:
        raise ValueError("too large")

    storage = open_storage(tmp_path / "study.db")
    search = FamilySearch(toy.space_of(num_trials=1), storage=storage, metric="val/miou", admit=admit)
    with pytest.raises(ValueError, match="too large"):
        search.suggest("a")


def test_snapshot_holds_nothing_and_is_never_read(search_at: Any, tmp_path: Path) -> None:
    """What Ray pickles cannot fail on a closure, and cannot bring back an old state."""
    search = search_at()
    search.save(str(tmp_path / "state.pkl"))
    assert pickle.loads(pickle.dumps(search)).__dict__ == {}  # noqa: S301
    with pytest.raises(RuntimeError, match="--resume"):
        search.restore(str(tmp_path / "state.pkl"))


def test_missing_study_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"got no file .*study.db"):
        open_study(tmp_path / "study.db")
