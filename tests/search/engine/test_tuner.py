"""The whole search on a real Ray. The numbers in brackets are the pitfalls of Ray Tune that are closed."""

from __future__ import annotations

import json
import logging
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from search.cluster.nodes import Node
from search.cluster.run_files import RunFiles
from search.engine.study_file import open_study
from search.engine.tuner import SearchInterrupted, concurrency
from search.observers.event_log import read_events
from search.observers.trial_row import Observer, TrialRow, study_rows
from search.run_dir import RunDir
from search.stop_signals import stop_signals

REPOSITORY = Path(__file__).parents[3]


class Recorder(Observer):
    def __init__(self) -> None:
        self.ended: list[int] = []
        self.metrics: list[dict[str, Any]] = []

    def epoch(self, row: Any, metrics: Any) -> None:
        self.metrics.append(dict(metrics))

    def trial_ended(self, row: Any) -> None:
        self.ended.append(row.number)


@pytest.fixture(scope="module")
def first_search(local_ray: None, toy: Any, tmp_path_factory: Any) -> Any:
    """One search that several tests look at: (rows, study, recorder, folder)."""
    from search.engine.tuner import run_search

    folder, recorder = tmp_path_factory.mktemp("search"), Recorder()
    space = toy.space_of(num_trials=10, max_concurrent=1)
    rows = run_search(space, toy.ToyPolicy(), toy.make_trainable(), RunFiles(RunDir(folder)), observers=[recorder])
    return rows, open_study(folder / "study.db"), recorder, folder


def test_every_trial_ends_once_and_the_defaults_come_first(first_search: Any, toy: Any) -> None:
    rows, _, recorder, _ = first_search
    assert sorted(recorder.ended) == list(range(10))
    assert [row.params for row in rows[:2]] == toy.DEFAULTS
    assert [row.family for row in rows[:2]] == ["convnext", "swin"]


def test_stopped_trials_are_pruned_and_whole_ones_complete_in_the_study(first_search: Any) -> None:
    rows, study, _, _ = first_search
    states = {trial.number: trial.state.name for trial in study.trials}
    assert {row.number: row.state for row in rows} == states
    assert Counter(states.values()).keys() == {"COMPLETE", "PRUNED"}
    assert all((row.epochs == 9) == (row.state == "COMPLETE") for row in rows)


def test_the_study_holds_every_epoch_that_was_run(first_search: Any) -> None:
    rows, study, _, _ = first_search
    for row, trial in zip(rows, study.trials, strict=True):
        assert sorted(trial.intermediate_values) == list(range(1, row.epochs + 1))
        assert trial.value == pytest.approx(row.best_miou)


def test_parameters_of_branches_reach_the_recipe_unmerged(first_search: Any) -> None:
    """Names like a/b and a/b/c would be merged into one dict by Ray's own define-by-run."""
    for row in first_search[0]:
        assert row.recipe["optimizer"]["lr"] == row.params[f"model/backbone/{row.backbone}/lr"]


def test_actors_are_reused(first_search: Any) -> None:
    pids = {json.loads((Path(row.checkpoint) / "state.json").read_text())["pid"] for row in first_search[0]}
    assert len(pids) <= 2  # one runs at a time; a second may have been started ahead


def test_rays_json_log_is_kept_and_its_other_loggers_are_not(first_search: Any) -> None:
    for row in first_search[0]:
        folder = Path(row.checkpoint).parent
        assert len((folder / "result.json").read_text().splitlines()) == row.epochs
        assert not (folder / "progress.csv").exists()


def test_one_checkpoint_a_trial_stays(first_search: Any) -> None:
    for row in first_search[0]:
        assert [path.name for path in Path(row.checkpoint).parent.glob("checkpoint_*")] == [Path(row.checkpoint).name]


def test_workers_have_their_share_of_threads_and_the_drivers_directory(first_search: Any) -> None:
    metrics = first_search[2].metrics
    assert {line["threads"] for line in metrics} == {"1"}
    assert {line["cwd"] for line in metrics} == {str(Path.cwd())}


def test_one_at_a_time_the_same_seed_gives_the_same_search(first_search: Any, search_in: Any, toy: Any) -> None:
    again = search_in(num_trials=10, max_concurrent=1)
    assert [(row.recipe_hash, row.state, row.epochs) for row in again] == [
        (row.recipe_hash, row.state, row.epochs) for row in first_search[0]
    ]


def test_the_later_stages_have_their_own_ctrl_c(search_in: Any) -> None:
    search_in(num_trials=1, max_epochs=1)
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def test_first_trials_are_the_same_at_any_concurrency(first_search: Any, search_in: Any) -> None:
    again = search_in(num_trials=10)  # two at a time, and one waiting
    num_exact = 2 + 10 // 4
    assert [row.recipe_hash for row in again][:num_exact] == [row.recipe_hash for row in first_search[0]][:num_exact]


def test_errors_divergence_and_memory_end_their_trials_only(search_in: Any, toy: Any, tmp_path: Path) -> None:
    tries, healthy = tmp_path / "tries", toy.make_trainable()
    tries.mkdir()

    def trial(config: dict[str, Any]) -> None:
        from ray import tune

        number = config["number"]
        (tries / f"{number}-{len(list(tries.glob(f'{number}-*')))}").touch()
        if number == 1:
            raise KeyError("no such layer")
        if number == 2:
            raise RuntimeError("CUDA out of memory. Tried to allocate 20.00 GiB")
        if number == 3:
            tune.report({"val/miou": math.nan, "epoch": 1})
        if number == 4:
            tune.report({"val/miou": 0.0, "epoch": 1, "diverged": True, "error": "loss is nan at step 7"})
        if number == 5:
            return
        if number == 6:
            tune.report({"epoch": 1})
        if number == 7:
            raise ValueError("batch_size must not exceed 3, got 8; use 3")
        healthy(config)

    rows = search_in(num_trials=9, trainable=trial, max_failures=1, max_concurrent=2)
    states = [row.state for row in rows]
    assert states[1:8] == ["FAIL", "FAIL", "DIVERGED", "DIVERGED", "FAIL", "FAIL", "FAIL"]
    assert {states[0], states[8]} <= {"COMPLETE", "PRUNED"}
    assert "no such layer" in rows[1].error
    assert rows[2].error.startswith("out of memory: CUDA out of memory")
    assert "not finite" in rows[3].error
    assert rows[4].error == "loss is nan at step 7"
    assert "without reporting" in rows[5].error
    assert "without val/miou" in rows[6].error
    assert rows[7].error == "batch_size must not exceed 3, got 8; use 3"
    study = open_study(tmp_path / "study.db")
    assert [study.trials[number].state.name for number in range(1, 8)] == ["FAIL"] * 7
    assert len(list(tries.glob("1-*"))) == 2  # one retry
    assert [len(list(tries.glob(f"{number}-*"))) for number in range(2, 8)] == [1] * 6


def test_a_retried_trial_goes_on_from_its_checkpoint(search_in: Any, toy: Any, tmp_path: Path) -> None:
    def fails_once(recipe: Any, epoch: int) -> None:
        if epoch == 4 and not (tmp_path / "failed").exists():
            (tmp_path / "failed").touch()
            os.kill(os.getpid(), signal.SIGKILL)  # as when a node is lost

    recorder = Recorder()
    rows = search_in(
        num_trials=1, max_failures=1, trainable=toy.make_trainable(before_epoch=fails_once), observers=[recorder]
    )
    assert [metrics["epoch"] for metrics in recorder.metrics] == list(range(1, 10))
    assert rows[0].state == "COMPLETE"
    assert rows[0].error is None


def test_a_stuck_trial_is_killed_and_the_others_go_on(search_in: Any, toy: Any) -> None:
    def hang(recipe: Any, epoch: int) -> None:
        if recipe.family == "swin" and epoch == 2:
            time.sleep(600)

    rows = search_in(
        num_trials=2, trial_timeout_s=5.0, trainable=toy.make_trainable(before_epoch=hang), max_concurrent=1
    )
    assert [row.state for row in rows] == ["COMPLETE", "FAIL"]
    assert rows[1].error == "stuck: no epoch ended within 5.0 s (search.trial_timeout_s), as often as it was tried"
    assert rows[1].epochs == 1


def test_a_trial_that_was_stuck_once_goes_on_from_its_checkpoint(search_in: Any, toy: Any, tmp_path: Path) -> None:
    def hang_once(recipe: Any, epoch: int) -> None:
        if epoch == 4 and not (tmp_path / "hung").exists():
            (tmp_path / "hung").touch()
            time.sleep(600)

    recorder, trainable = Recorder(), toy.make_trainable(before_epoch=hang_once)
    rows = search_in(num_trials=1, max_failures=1, trial_timeout_s=5.0, trainable=trainable, observers=[recorder])
    assert [metrics["epoch"] for metrics in recorder.metrics] == list(range(1, 10))
    assert (rows[0].state, rows[0].error) == ("COMPLETE", None)


def test_slow_teardown_neither_errs_nor_hangs(search_in: Any, toy: Any) -> None:
    """Ray gives up on an actor whose last trial takes over 2 s to end."""
    rows = search_in(num_trials=2, trainable=toy.make_trainable(after=lambda: time.sleep(2.5)), max_concurrent=1)
    assert {row.state for row in rows} <= {"COMPLETE", "PRUNED"}


def test_trial_that_ray_dropped_runs_after_all(search_in: Any, toy: Any) -> None:
    """The same where a teardown outlasts even the longer patience: the dropped trial keeps its number."""

    def impatient(recipe: Any, epoch: int) -> None:
        os.environ["TUNE_FUNCTION_THREAD_TIMEOUT_S"] = "1"

    trainable = toy.make_trainable(before_epoch=impatient, after=lambda: time.sleep(2.5))
    rows = search_in(num_trials=2, trainable=trainable, max_concurrent=1)
    assert [row.number for row in rows] == [0, 1]
    assert {row.state for row in rows} <= {"COMPLETE", "PRUNED"}


def test_observer_that_fails_ends_the_search_with_its_own_error(search_in: Any) -> None:
    class Full(Observer):
        def epoch(self, row: Any, metrics: Any) -> None:
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        search_in(num_trials=1, observers=[Full()])


class Heard(logging.Handler):
    """What a logger says."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def test_interrupted_search_says_so_and_goes_on(search_in: Any) -> None:
    """By SIGTERM, which is handed to Tune's handler of SIGINT."""

    class Interrupt(Observer):
        def epoch(self, row: Any, metrics: Any) -> None:
            if (row.number, metrics["epoch"]) == (1, 4):
                os.kill(os.getpid(), signal.SIGTERM)

    heard = Heard()
    logging.getLogger("ray.tune.tune").addHandler(heard)
    with stop_signals() as signals, pytest.raises(SearchInterrupted, match="1 of 3 trials ended"):
        search_in(num_trials=3, max_concurrent=1, observers=[Interrupt()])
    logging.getLogger("ray.tune.tune").removeHandler(heard)
    assert signals.exit_code == 143
    assert any("Stop signal received" in line for line in heard.lines)
    assert not any("Tuner.restore" in line for line in heard.lines)  # Ray's advice, which loses the rungs
    recorder = Recorder()
    rows = search_in(num_trials=3, max_concurrent=1, observers=[recorder], resume=True)
    assert recorder.ended == [1, 2]
    assert [row.number for row in rows if row.state == "RUNNING"] == []
    assert recorder.metrics[0]["epoch"] in (4, 5)  # 4 where its checkpoint was on its way


def test_existing_study_is_not_searched_anew(first_search: Any, search_in: Any) -> None:
    with pytest.raises(ValueError, match="resume that run"):
        search_in(folder=first_search[3])


def moved(row: TrialRow, before: Path, after: Path) -> TrialRow:
    """A row of a run that lies elsewhere now: paths in the study are relative to it."""
    return replace(row, checkpoint=str(after / Path(row.checkpoint or "").relative_to(before)))


def test_finished_search_resumes_to_nothing_and_more_trials_are_added(
    first_search: Any, search_in: Any, tmp_path: Path
) -> None:
    shutil.copy(first_search[3] / "study.db", tmp_path)
    before = [moved(row, first_search[3], tmp_path) for row in first_search[0]]
    assert search_in(num_trials=10, resume=True) == before
    assert not (tmp_path / "tune").exists()
    after = search_in(num_trials=11, resume=True)
    assert after[:10] == before
    assert after[10].state in ("COMPLETE", "PRUNED")


def test_demand_that_no_cluster_meets_is_refused_before_a_trial_starts(search_in: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"must fit one node of the cluster, got resources.gpu 2"):
        search_in(resources_of=lambda recipe: {"cpu": 1, "gpu": 2})
    assert not (tmp_path / "tune").exists()


@pytest.mark.parametrize(("gpus_of_swin", "expected"), [(1, 4 + 1), (2, 4 + 2)])
def test_more_trials_are_held_than_fit(toy: Any, gpus_of_swin: int, expected: int) -> None:
    wanted = lambda recipe: {"cpu": 1, "gpu": gpus_of_swin if recipe.family == "swin" else 1}  # noqa: E731
    assert concurrency(toy.space_of(), toy.ToyPolicy(wanted), [Node(64, 4)]) == expected


DRIVER = """
import logging, sys, time
from importlib import util
from pathlib import Path

spec = util.spec_from_file_location("toy", sys.argv[1])
toy = util.module_from_spec(spec)
sys.modules["toy"] = toy
spec.loader.exec_module(toy)
import ray
from ray import cloudpickle
from search.cluster.run_files import RunFiles
from search.engine.tuner import run_search
from search.observers.event_log import EventLog
from search.run_dir import RunDir

cloudpickle.register_pickle_by_value(toy)
ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level=logging.WARNING)
folder = Path(sys.argv[2])
run_search(
    toy.space_of(max_concurrent=int(sys.argv[4]), max_failures=2), toy.ToyPolicy(),
    toy.make_trainable(epoch_s=float(sys.argv[3])), RunFiles(RunDir(folder)),
    observers=[EventLog(folder / "events.jsonl", clock=time.time)], resume=True,
)
"""


def start_driver(folder: Path, *, epoch_s: float, max_concurrent: int) -> subprocess.Popen[bytes]:
    toy_file = Path(__file__).parents[1] / "conftest.py"
    arguments = [str(toy_file), str(folder), str(epoch_s), str(max_concurrent)]
    return subprocess.Popen([sys.executable, "-c", DRIVER, *arguments], cwd=REPOSITORY, start_new_session=True)


def kill_in_the_middle(folder: Path) -> None:
    """SIGKILLs a driver once a trial has ended and another has finished three of its nine epochs."""
    log = folder / "events.jsonl"
    driver = start_driver(folder, epoch_s=0.15, max_concurrent=2)
    try:
        for _ in range(1500):
            time.sleep(0.1)
            events = list(read_events(log)) if log.exists() else []
            ended = {event["trial"] for event in events if event["event"] == "trial_ended"}
            begun = {event["trial"] for event in events if event["event"] == "epoch" and event["epoch"] == 3}
            if ended and begun - ended:
                break
        else:
            pytest.fail("the search did not get as far as it should have")
    finally:
        driver.kill()
        driver.wait()


@pytest.mark.slow
def test_killed_driver_resumes_without_losing_or_repeating_a_trial(toy: Any, tmp_path: Path) -> None:
    kill_in_the_middle(tmp_path)
    before = {row.number: row for row in study_rows(open_study(tmp_path / "study.db"), tmp_path)}
    finished = {number: row for number, row in before.items() if row.state != "RUNNING"}
    unfinished = {number: row for number, row in before.items() if row.state == "RUNNING"}
    assert finished
    assert any(row.epochs >= 3 for row in unfinished.values())
    resumed = start_driver(tmp_path, epoch_s=0.0, max_concurrent=2)
    assert resumed.wait(timeout=180) == 0

    study = open_study(tmp_path / "study.db")
    after = {row.number: row for row in study_rows(study, tmp_path)}
    assert len(after) == 6
    assert all(after[number] == row for number, row in finished.items())
    assert not [trial for trial in study.trials if trial.state.name in ("RUNNING", "WAITING")]
    events = list(read_events(tmp_path / "events.jsonl"))
    ended = Counter(event["trial"] for event in events if event["event"] == "trial_ended")
    assert set(ended.values()) == {1}
    epochs = Counter((event["trial"], event["epoch"]) for event in events if event["event"] == "epoch")
    repeated = [key for key, times in epochs.items() if times > 1]
    assert len(repeated) <= len(unfinished)  # at most the epoch whose checkpoint was on its way
    for row in after.values():
        assert after[row.number].epochs == max(epoch for name, epoch in epochs if name == row.trial)
        assert [path.name for path in (tmp_path / "tune").glob(f"*/{row.trial}/checkpoint_*")] == [
            Path(row.checkpoint).name
        ]
