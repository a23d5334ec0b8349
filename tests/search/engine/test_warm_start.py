"""Trials of earlier runs: which join a search, what the sampler makes of them, and how the search is resumed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from search.engine.searcher import FamilySearch
from search.engine.study_file import open_storage, open_study
from search.engine.warm_start import is_warm, join_study, prepare, read_earlier
from search.observers.trial_row import study_rows
from search.run_dir import RunDir
from search.space.space import Space, load_space
from trainables.recipe.recipe import Recipe

PastRun = Callable[..., Path]


def space_at(run: Path, *overrides: str) -> Space:
    return load_space(str(RunDir(run).space_yaml), overrides=overrides)


def prepared(folder: Path, earlier: Path, *overrides: str) -> RunDir:
    """A new run that is to begin with the trials of an earlier one."""
    folder.mkdir()
    run = RunDir(folder)
    prepare(run, space_at(earlier, *overrides), read_earlier([earlier], "data"), print)
    return run


def begun(run: RunDir, space: Space) -> FamilySearch:
    """The search as `run_search` begins it, or goes on with it."""
    storage = open_storage(run.study_db)
    join_study(storage, space.suggest, run)
    return FamilySearch(space, storage=storage, metric="val/miou")


def recipes(search: FamilySearch, names: Sequence[str], toy: Any) -> list[Any]:
    found = []
    for name in names:
        config = search.suggest(name)
        assert isinstance(config, dict)
        found.append(config["recipe"])
        miou = toy.curve(Recipe.model_validate(config["recipe"]), 9)
        search.on_trial_complete(name, {"epoch": 9, "val/miou": miou})
    return found


def test_earlier_trials_have_numbers_and_neither_rows_nor_a_share_of_the_trials(
    past_run: PastRun, tmp_path: Path, toy: Any
) -> None:
    earlier = past_run(tmp_path / "old")
    run = prepared(tmp_path / "new", earlier)
    search = begun(run, space_at(earlier, "search.num_trials=2"))
    recipes(search, "ab", toy)
    assert search.is_done
    assert [row.number for row in study_rows(search.study, run.root)] == [6, 7]
    old, new = open_study(earlier / "study.db").trials, search.study.trials
    assert [(trial.params, trial.value) for trial in new[:6]] == [(trial.params, trial.value) for trial in old]
    assert [is_warm(trial) for trial in new] == [True] * 6 + [False] * 2


def test_a_resumed_search_equals_one_that_was_not_interrupted_and_needs_no_earlier_run(
    past_run: PastRun, tmp_path: Path, toy: Any
) -> None:
    earlier = past_run(tmp_path / "old")
    space = space_at(earlier, "search.num_trials=8")
    whole, parts = prepared(tmp_path / "whole", earlier), prepared(tmp_path / "parts", earlier)
    shutil.rmtree(earlier)
    expected = recipes(begun(whole, space), "abcdefgh", toy)
    found = recipes(begun(parts, space), "abcd", toy) + recipes(begun(parts, space), "efgh", toy)
    assert found == expected
    assert len({str(recipe) for recipe in found}) == 8


def test_a_driver_that_died_while_they_joined_goes_on(past_run: PastRun, tmp_path: Path) -> None:
    earlier = past_run(tmp_path / "old")
    run = prepared(tmp_path / "new", earlier)
    text, space = run.warm_start_json.read_text(encoding="utf-8"), space_at(earlier)
    run.warm_start_json.write_text(json.dumps({"trials": json.loads(text)["trials"][:2]}), encoding="utf-8")
    join_study(open_storage(run.study_db), space.suggest, run)
    run.warm_start_json.write_text(text, encoding="utf-8")
    assert [trial.params for trial in begun(run, space).study.trials] == [
        trial.params for trial in open_study(earlier / "study.db").trials
    ]


def test_the_sampler_learns_from_them_in_place_of_random_trials(past_run: PastRun, tmp_path: Path, toy: Any) -> None:
    """After the defaults a search's trials are random, a function of the seed; with earlier trials, of their scores."""
    earlier = past_run(tmp_path / "old")
    others = past_run(tmp_path / "others", more=lambda recipe: 100 * recipe.optimizer.lr)
    space = space_at(earlier, "search.num_trials=20")
    (tmp_path / "cold").mkdir()
    runs = {"cold": RunDir(tmp_path / "cold")}
    runs |= {root.name: prepared(tmp_path / f"new-{root.name}", root) for root in (earlier, others)}
    found = {name: recipes(begun(run, space), "abc", toy) for name, run in runs.items()}
    assert found["old"][:2] == found["others"][:2] == found["cold"][:2]  # the defaults
    assert len({str(each[2]) for each in found.values()}) == 3


def test_only_trials_inside_an_overlapping_space_join(
    past_run: PastRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    earlier = past_run(tmp_path / "old")
    run = prepared(tmp_path / "new", earlier, "model.backbone=test_resnet")
    trials = json.loads(run.warm_start_json.read_text(encoding="utf-8"))["trials"]
    assert 0 < len(trials) < 6
    assert all(trial["params"].keys() == {"optimizer/lr"} for trial in trials)
    assert f"warm start: {len(trials)} of 6 finished trials of {earlier} lie in this space" in capsys.readouterr().out


def test_every_unrelated_run_is_named_with_its_reason(past_run: PastRun, tmp_path: Path) -> None:
    near, far = past_run(tmp_path / "near"), past_run(tmp_path / "far")
    space, runs = space_at(near, "optimizer.weight_decay=0.2"), read_earlier([near, far], "data")
    with pytest.raises(
        ValueError, match=r"(?s)--warm-start must name .*near: .*weight_decay 0.05.*6 of 6.*far: .*leave"
    ):
        prepare(RunDir(tmp_path), space, runs, print)
    assert not RunDir(tmp_path).warm_start_json.exists()


def test_runs_on_other_data_and_folders_without_a_run_are_refused(past_run: PastRun, tmp_path: Path) -> None:
    other = past_run(tmp_path / "other", data="another")
    with pytest.raises(ValueError, match=r"(?s)same data .*other \(another\).*segsearch portfolio"):
        read_earlier([other], "data")
    with pytest.raises(ValueError, match=r"(?s)--warm-start needs a run directory .*a; .*\n--warm-start needs .*b;"):
        read_earlier([tmp_path / "a", tmp_path / "b"], "data")


def test_a_run_of_which_no_trial_has_ended_is_refused(past_run: PastRun, tmp_path: Path) -> None:
    earlier = past_run(tmp_path / "old")
    (earlier / "study.db").unlink()
    search = FamilySearch(space_at(earlier), storage=open_storage(earlier / "study.db"), metric="val/miou")
    search.suggest("a")
    with pytest.raises(ValueError, match="must have a trial that ran to its end, got none in"):
        read_earlier([earlier], "data")


def test_what_a_claim_without_a_beginning_left_does_not_join(past_run: PastRun, tmp_path: Path) -> None:
    earlier = past_run(tmp_path / "old")
    run = prepared(tmp_path / "new", earlier)
    prepare(run, space_at(earlier), [], print)
    assert begun(run, space_at(earlier)).study.trials == []


def test_ray_runs_the_trials_of_a_search_that_begins_with_others(
    search_in: Any, past_run: PastRun, tmp_path: Path
) -> None:
    params = {"model/backbone": "convnext_atto", "model/backbone/convnext_atto/lr": 1e-3}
    warm = [{"run": "old", "trial": f"{n:05d}", "miou": 0.5, "params": params} for n in range(3)]
    RunDir(tmp_path).warm_start_json.write_text(json.dumps({"trials": warm}), encoding="utf-8")
    rows = search_in(num_trials=2)
    assert [(row.trial, row.state) for row in rows] == [("00003", "COMPLETE"), ("00004", "COMPLETE")]
