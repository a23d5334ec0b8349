"""Rows from Ray's callback calls; no Ray process."""

from __future__ import annotations

import csv
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from factories import Clock, make_row
from ray import cloudpickle

from search.engine.ray_callback import TrialTable
from search.engine.searcher import FamilySearch
from search.engine.study_file import open_storage
from search.observers.trial_row import Observer, TrialRow, finite, study_rows
from search.observers.trials_csv import SHARE, CsvTable, write_csv


class Rig:
    """A searcher and its table, and Ray's calls as the controller makes them."""

    def __init__(self, toy: Any, folder: Path, observers: Any = ()) -> None:
        storage = open_storage(folder / "study.db")
        self.search = FamilySearch(toy.space_of(num_trials=9), storage=storage, metric="val/miou")
        self.table = TrialTable(self.search, self.search, observers, "val/miou")
        self.folder = folder
        self.table.tell("begin", self.table.rows, 9)

    def start(self, trial_id: str, **resources: float) -> Any:
        held = SimpleNamespace(required_resources=resources or {"CPU": 2.0})
        trial = SimpleNamespace(
            trial_id=trial_id,
            config=self.search.suggest(trial_id),
            placement_group_factory=held,
            status="RUNNING",
            error_file=str(self.folder / "error.txt"),
        )
        self.table.on_trial_start(0, [], trial)
        return trial

    def report(self, trial: Any, epoch: int, miou: Any, **more: Any) -> dict[str, Any]:
        result = {"epoch": epoch, "val/miou": miou, "time_this_iter_s": 1.5, **more}
        self.search.on_trial_result(trial.trial_id, result)
        self.table.on_trial_result(0, [], trial, result)
        return result

    def end(self, trial: Any, result: dict[str, Any]) -> TrialRow:
        self.search.on_trial_complete(trial.trial_id, result)
        self.table.on_trial_complete(0, [], trial)
        return self.table.rows[trial.config["number"]]


@pytest.fixture
def rig(toy: Any, tmp_path: Path) -> Rig:
    return Rig(toy, tmp_path)


def test_row_keeps_the_best_epoch_and_the_time_of_all(rig: Rig) -> None:
    trial = rig.start("a")
    for epoch, miou in enumerate([0.2, 0.5, 0.4], start=1):
        last = rig.report(trial, epoch, miou, **{"val/iou": [miou, float("nan")]})
    row = rig.end(trial, last)
    assert (row.state, row.epochs, row.best_miou, row.best_epoch) == ("PRUNED", 3, 0.5, 2)
    assert row.iou == [0.5, None]
    assert (row.device, row.device_s) == ("cpu", 3 * 1.5 * 2)
    assert (row.trial, row.family, row.head) == ("00000", "convnext", "segformer")


def test_gpu_seconds_count_shares_of_a_gpu(rig: Rig) -> None:
    trial = rig.start("a", CPU=8.0, GPU=0.5)
    row = rig.end(trial, rig.report(trial, 1, 0.1))
    assert (row.device, row.device_s) == ("gpu", 0.75)


def test_rows_in_the_study_equal_those_in_memory(rig: Rig) -> None:
    first, second, third = (rig.start(name) for name in "abc")
    rig.end(first, rig.report(first, 9, 0.3))
    rig.end(second, rig.report(second, 2, float("nan")))
    rig.report(third, 1, 0.2, **{"val/iou": [0.2, 0.1]})
    assert study_rows(rig.search.study, rig.folder) == [rig.table.rows[number] for number in range(3)]
    assert [row.state for row in study_rows(rig.search.study, rig.folder)] == ["COMPLETE", "DIVERGED", "RUNNING"]


def test_error_row_has_the_last_lines_of_the_error(rig: Rig, tmp_path: Path) -> None:
    trial = rig.start("a")
    (tmp_path / "error.txt").write_text("Failure # 1\nTraceback\n" + "  frame\n" * 40 + "KeyError: 'stem'\n")
    rig.search.on_trial_complete("a", error=True)
    rig.table.on_trial_error(0, [], trial)
    row = rig.table.rows[0]
    assert (row.state, row.error.splitlines()[-1] if row.error else "") == ("FAIL", "KeyError: 'stem'")
    assert len((row.error or "").splitlines()) < 10
    assert study_rows(rig.search.study, rig.folder) == [row]


def test_checkpoint_of_an_earlier_session_is_removed_once_a_newer_one_is_written_down(rig: Rig, tmp_path: Path) -> None:
    trial = rig.start("a")
    old = tmp_path / "tune" / "session-000" / "00000" / "checkpoint_000002"
    new = tmp_path / "tune" / "session-001" / "00000" / "checkpoint_000000"
    other = tmp_path / "tune" / "session-000" / "00001" / "checkpoint_000000"
    for folder in (old, new, other):
        folder.mkdir(parents=True)
    rig.report(trial, 4, 0.1)
    rig.table.on_checkpoint(0, [], trial, SimpleNamespace(path=str(new)))
    assert rig.search.study.trials[0].user_attrs["checkpoint"] == {
        "path": "tune/session-001/00000/checkpoint_000000",
        "epoch": 4,
    }
    assert (old.exists(), new.exists(), other.exists()) == (False, True, True)


def test_trial_that_ray_dropped_is_given_back(rig: Rig) -> None:
    trial = rig.start("a")
    rig.table.on_step_end(0, [trial])
    assert rig.search.is_live("a")
    trial.status = "ERROR"
    rig.table.on_step_end(0, [trial])
    assert not rig.search.is_live("a")
    config = rig.search.suggest("b")
    assert config is not None
    assert config["number"] == 0


def test_earlier_checkpoint_of_the_same_session_goes_and_a_later_one_stays(rig: Rig, tmp_path: Path) -> None:
    trial = rig.start("a")
    folder = tmp_path / "tune" / "session-000" / "00000"
    for number in range(3):
        (folder / f"checkpoint_{number:06d}").mkdir(parents=True)
    rig.table.on_checkpoint(0, [], trial, SimpleNamespace(path=str(folder / "checkpoint_000001")))
    assert sorted(path.name for path in folder.iterdir()) == ["checkpoint_000001", "checkpoint_000002"]


def test_observers_failure_is_kept_whole(toy: Any, tmp_path: Path) -> None:
    class Full(Observer):
        def trial_started(self, row: TrialRow) -> None:
            raise OSError(28, "No space left on device")

    rig = Rig(toy, tmp_path, [Full()])
    with pytest.raises(OSError, match="No space"):
        rig.start("a")
    assert isinstance(rig.table.failure, OSError)
    assert [row.state for row in study_rows(rig.search.study, rig.folder)] == [
        "RUNNING"
    ]  # the trial goes on when it is resumed


def test_observers_are_told_in_order(toy: Any, tmp_path: Path) -> None:
    told: list[tuple[str, ...]] = []

    class Recorder(Observer):
        def __init__(self, name: str) -> None:
            self.name = name

        def __getattribute__(self, method: str) -> Any:
            if not hasattr(Observer, method) or method.startswith("__"):
                return super().__getattribute__(method)
            return lambda *_: told.append((self.name, method))

    rig = Rig(toy, tmp_path, [Recorder("first"), Recorder("second")])
    trial = rig.start("a")
    rig.table.on_step_end(0, [trial])
    rig.report(trial, 1, 0.5)
    rig.end(trial, rig.report(trial, 2, float("nan")))  # a broken report is no epoch
    expected = ("begin", "trial_started", "tick", "epoch", "trial_ended")
    assert told == [(name, method) for method in expected for name in ("first", "second")]


def test_table_pickles_whatever_its_observers_hold(toy: Any, tmp_path: Path) -> None:
    observer = Observer()
    observer.terminal = (tmp_path / "out").open("w")  # type: ignore[attr-defined]
    copy = cloudpickle.loads(cloudpickle.dumps(Rig(toy, tmp_path, [observer]).table))
    assert isinstance(copy, TrialTable)
    observer.terminal.close()  # type: ignore[attr-defined]


def test_csv_has_a_column_a_class_and_parameter(rig: Rig, tmp_path: Path) -> None:
    for name in "ab":
        trial = rig.start(name)
        rig.end(trial, rig.report(trial, 9, 0.3, **{"val/iou": [0.25, float("nan")]}))
    write_csv(tmp_path / "trials.csv", list(rig.table.rows.values()), ["sky", "car"])
    with (tmp_path / "trials.csv").open() as file:
        first, second = csv.DictReader(file)
    assert (first["state"], first["iou/sky"], first["iou/car"]) == ("COMPLETE", "0.25", "")
    assert float(first["param/model/backbone/convnext_atto/lr"]) == 1e-3
    assert second["param/model/backbone/convnext_atto/lr"] == ""
    assert [path.name for path in tmp_path.glob("*trials*")] == ["trials.csv"]


def test_no_text_of_the_csv_is_a_formula(rig: Rig, tmp_path: Path) -> None:
    row = rig.end(trial := rig.start("a"), rig.report(trial, 9, 0.3))
    row.error, row.params = '=HYPERLINK("http://x")', {"shift": -1.5, "name": "@x"}
    write_csv(tmp_path / "trials.csv", [row], ["=sky"])
    with (tmp_path / "trials.csv").open() as file:
        [line] = csv.DictReader(file)
    assert (line["error"], line["param/shift"], line["param/name"]) == ('\'=HYPERLINK("http://x")', "-1.5", "'@x")
    assert not [name for name in line if name[0] in "=+-@"]


def test_csv_is_rewritten_now_and_then_and_at_every_end(toy: Any, tmp_path: Path) -> None:
    clock, path = Clock(), tmp_path / "trials.csv"
    rig = Rig(toy, tmp_path, [CsvTable(path, classes=["sky"], clock=clock, every_s=2.0)])
    trial = rig.start("a")
    rig.report(trial, 1, 0.25)
    assert "0.25" not in path.read_text()
    clock.now_s = 3.0
    rig.report(trial, 2, 0.5)
    assert "0.5" in path.read_text()
    rig.end(trial, rig.report(trial, 3, 0.75))
    assert "PRUNED" in path.read_text()


def test_csv_rests_in_proportion_to_the_time_that_it_took(tmp_path: Path) -> None:
    """A search of thousands of trials must not spend its time on its table."""
    clock, path, rows = Clock(), tmp_path / "trials.csv", {0: make_row(0)}

    def slow_clock() -> float:
        clock.now_s += 1.0
        return clock.now_s

    table = CsvTable(path, classes=[], clock=slow_clock)
    table.begin(rows, 9)
    rows[1] = make_row(1)
    table.trial_started(rows[1])
    assert "00001" not in path.read_text()
    clock.now_s += 1 / SHARE
    table.tick()
    assert "00001" in path.read_text()
    rows[2] = make_row(2)
    table.trial_started(rows[2])
    table.end()
    assert "00002" in path.read_text()


def test_finite_leaves_no_nan_anywhere() -> None:
    assert finite({"a": float("nan"), "b": [1.0, float("inf")], "c": "x"}) == {"a": None, "b": [1.0, None], "c": "x"}
