"""One contract for every observer and every registered tracker, told of a search that is interrupted and resumed."""

from __future__ import annotations

import importlib
import io
import pkgutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from factories import Clock, make_row, make_time_left
from PIL import Image
from rich.console import Console

import search.observers as package
from search.observers.event_log import EventLog
from search.observers.progress import LiveTable, PlainLines
from search.observers.search_info import Outcome, SearchInfo
from search.observers.trackers import NEEDS, TRACKERS, Guarded, build_trackers
from search.observers.trial_row import Observer
from search.observers.trials_csv import CsvTable
from search.run_dir import RunDir

HIDDEN = "0123456789abcdef0123456789abcdef01234567"
CALLS = ("begin", "trial_started", "epoch", "trial_ended", "tick", "end", "finished")
Make = Callable[[Path, io.StringIO], Observer]


def info_of(folder: Path) -> SearchInfo:
    return SearchInfo(RunDir(folder), ("sky", "car"))


CASES: dict[str, Make] = {
    "trials_csv": lambda folder, _: CsvTable(folder / "trials.csv", classes=["sky", "car"], clock=Clock()),
    "event_log": lambda folder, _: EventLog(folder / "events.jsonl", clock=Clock()),
    "plain_lines": lambda _, stream: PlainLines(make_time_left(), clock=Clock(), stream=stream),
    "live_table": lambda _, stream: LiveTable(
        make_time_left(), clock=Clock(), console=Console(file=stream, force_terminal=True)
    ),
    **{name: lambda folder, _, make=make: make(info_of(folder)) for name, make in TRACKERS.items()},  # type: ignore[misc]
}


def first_session(observer: Observer) -> None:
    """One trial ends, one is refused before its first epoch, one is interrupted."""
    rows = {n: make_row(n) for n in range(3)}
    observer.begin(rows, 4)
    for n in rows:
        observer.trial_started(rows[n])
    observer.tick()
    for n in (0, 2):
        rows[n] = replace(rows[n], epochs=1, best_miou=0.5, best_epoch=1, iou=[0.5, None])
        values = {"epoch": 1, "val/miou": 0.5, "val/iou": [0.5, float("nan")], "lr": float("inf"), "note": "x"}
        observer.epoch(rows[n], values)
    observer.trial_ended(replace(rows[0], state="COMPLETE"))
    observer.trial_ended(replace(rows[1], state="FAIL", error="no room\nMemoryError: 9 GiB"))
    observer.end()


def second_session(observer: Observer) -> None:
    """Knows the earlier trials, and runs one more."""
    states = ("COMPLETE", "FAIL", "RUNNING", "RUNNING")
    rows = {n: make_row(n, state) for n, state in enumerate(states)}
    observer.begin(rows, 4)
    observer.trial_started(rows[3])
    observer.epoch(rows[3], {"epoch": 1, "val/miou": 0.25})
    observer.trial_ended(replace(rows[3], state="PRUNED"))
    observer.end()
    observer.end()


def told_the_outcome(observer: Observer, folder: Path) -> None:
    """After the last stage."""
    (folder / "bundle").mkdir()
    (folder / "bundle" / "bundle.json").write_text("{}", encoding="utf-8")
    observer.begin({}, 4)
    Image.new("RGB", (8, 8)).save(folder / "best-1.jpg")
    rules, samples = [{"rule": "soft", "mIoU": 0.5}], {folder / "best-1.jpg": "Best 1"}
    observer.finished(Outcome("Ship it.", rules, folder / "bundle", folder / "report.html", samples))
    observer.end()


@dataclass(frozen=True)
class Told:
    """What an observer left behind: file -> bytes after each session, and what it said."""

    first: dict[str, bytes]
    second: dict[str, bytes]
    said: str


def trials_in(content: bytes) -> set[str]:
    return {f"{n:05d}" for n in range(4) if f"{n:05d}".encode() in content}


def files_of(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not path.is_symlink()
    }


@pytest.fixture(scope="module", params=CASES)
def told(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Told]:
    folder, stream = tmp_path_factory.mktemp("run"), io.StringIO()
    if request.param in NEEDS:
        pytest.importorskip(NEEDS[request.param][0], reason=f"needs the extra {request.param}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
        patch.setenv("WANDB_MODE", "offline")
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        for name in ("WANDB_API_KEY", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN"):
            patch.setenv(name, HIDDEN)
        patch.setattr(sys, "stdout", stream)
        snapshots = []
        for session in (first_session, second_session):
            session(CASES[request.param](folder, stream))
            if "wandb" in sys.modules:
                sys.modules["wandb"].teardown()  # its service writes the files; this waits for it
            snapshots.append(files_of(folder))
        told_the_outcome(CASES[request.param](folder, stream), folder)
        yield Told(snapshots[0], snapshots[1], stream.getvalue())


def test_every_observer_has_a_case() -> None:
    modules = [importlib.import_module(f"{package.__name__}.{m.name}") for m in pkgutil.iter_modules(package.__path__)]
    known = {kind for module in modules for kind in vars(module).values() if isinstance(kind, type)}
    made = {type(make(Path(), io.StringIO())) for make in CASES.values()}
    concrete = {kind for kind in known if issubclass(kind, Observer) and not getattr(kind, "__abstractmethods__", ())}
    assert concrete - {Observer, Guarded} == made


def test_every_trial_of_both_sessions_is_told(told: Told, request: pytest.FixtureRequest) -> None:
    shown = {"00000", "00001", "00002", "00003"}
    if "plain_lines" in request.node.callspec.id:
        shown.remove("00002")  # lines come when trials end
    everything = "".join(told.second).encode() + b"".join(told.second.values()) + told.said.encode()
    assert trials_in(everything) == shown


def test_a_resumed_search_loses_nothing_of_the_earlier_session(told: Told) -> None:
    for name, before in told.first.items():
        after = told.second[name]
        assert after.startswith(before) or trials_in(before) <= trials_in(after), name  # appended, or replayed


def test_no_secret_of_the_environment_is_written_or_said(told: Told) -> None:
    assert HIDDEN[:16].encode() not in b"".join(told.second.values()) + told.said.encode()


@pytest.mark.parametrize("name", TRACKERS)
@pytest.mark.parametrize("method", CALLS)
def test_a_tracker_that_fails_is_switched_off_and_said_once(
    name: str, method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object) -> None:
        raise ConnectionError("no route")

    broken = Observer()
    setattr(broken, method, refuse)
    monkeypatch.setitem(TRACKERS, name, lambda _: broken)
    (tracker,) = build_trackers([name], info_of(Path()))
    for session in (first_session, second_session):
        session(tracker)
    told_the_outcome(tracker, tmp_path)
    assert capsys.readouterr().err.splitlines() == [
        f"the tracker {name} failed and is off for the rest of this session (ConnectionError: no route)"
    ]


def test_a_terminal_that_is_gone_does_not_end_the_search() -> None:
    stream, said = io.StringIO(), list[str]()
    stream.close()
    first_session(
        Guarded("the progress display", PlainLines(make_time_left(), clock=Clock(), stream=stream), say=said.append)
    )
    assert len(said) == 1
    assert "I/O operation on closed file" in said[0]
