"""events.jsonl, and W&B for real but offline."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from factories import make_row

from search.observers.event_log import EventLog, read_events
from search.observers.search_info import SearchInfo
from search.observers.trackers import build_trackers
from search.observers.wandb_tracker import WandbTracker, wandb_mode
from search.run_dir import RunDir


def test_events_are_one_object_a_line_without_nan(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "events.jsonl", clock=lambda: 12.5)
    log.begin({}, 3)
    log.trial_started(make_row())
    log.epoch(make_row(), {"epoch": 1, "val/miou": 0.5, "val/iou": [0.5, float("nan")], "hostname": "x"})
    log.trial_ended(make_row(state="PRUNED"))
    log.end()
    events = list(read_events(tmp_path / "events.jsonl"))
    assert [event["event"] for event in events] == [
        "search_started",
        "trial_started",
        "epoch",
        "trial_ended",
        "search_ended",
    ]
    assert events[2] == {
        "at": 12.5,
        "event": "epoch",
        "trial": "00000",
        "family": "convnext",
        "epoch": 1,
        "val/miou": 0.5,
        "val/iou": [0.5, None],
    }


def test_a_log_is_read_line_by_line(tmp_path: Path) -> None:
    """It may be larger than memory."""
    path = tmp_path / "events.jsonl"
    path.write_text('{"event": "search_started"}\n{"event": broken}\n', encoding="utf-8")
    events = read_events(path)
    assert next(events) == {"event": "search_started"}
    with pytest.raises(ValueError, match=r"events\.jsonl:2 must be one JSON object"):
        next(events)


def test_an_end_that_a_kill_kept_from_the_log_is_appended_once(tmp_path: Path) -> None:
    """The study hears of it first."""
    path = tmp_path / "events.jsonl"
    rows = {0: make_row(0, "COMPLETE"), 1: make_row(1, "PRUNED"), 2: make_row(2)}
    first = EventLog(path, clock=lambda: 0.0)
    first.begin({}, 3)
    first.trial_ended(rows[0])
    for _ in range(2):
        log = EventLog(path, clock=lambda: 1.0)
        log.begin(rows, 3)
        log.trial_ended(rows[1])
    ended = [event["trial"] for event in read_events(path) if event["event"] == "trial_ended"]
    assert ended == ["00000", "00001"]


@pytest.mark.parametrize("cut", range(1, 60, 7))
def test_line_that_a_kill_cut_short_is_left_out_and_the_next_writer_goes_on(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "events.jsonl"
    log = EventLog(path, clock=lambda: 0.0)
    log.trial_started(make_row(0))
    whole = path.read_bytes()
    path.write_bytes(whole + whole[:cut])
    assert len(list(read_events(path))) == 1
    log.begin({}, 3)
    assert [event["event"] for event in read_events(path)] == ["trial_started", "search_started"]


def test_broken_line_that_no_kill_explains_is_named(tmp_path: Path) -> None:
    (tmp_path / "events.jsonl").write_text('{"event": "search_started"}\n{"event": oops}\n')
    with pytest.raises(ValueError, match=r"events.jsonl:2 must be one JSON object"):
        list(read_events(tmp_path / "events.jsonl"))


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, "offline"),
        ({"WANDB_API_KEY": "k"}, "online"),
        ({"WANDB_API_KEY": "k", "WANDB_MODE": "offline"}, "offline"),
        ({"WANDB_MODE": "disabled"}, "disabled"),
    ],
)
def test_mode_follows_the_key(tmp_path: Path, environment: dict[str, str], expected: str) -> None:
    assert wandb_mode(environment, tmp_path) == expected


def test_login_kept_by_wandb_counts_as_a_key(tmp_path: Path) -> None:
    (tmp_path / ".netrc").write_text("machine api.wandb.ai\n  login user\n  password not-a-key\n")
    assert wandb_mode({}, tmp_path) == "online"
    assert wandb_mode({"WANDB_BASE_URL": "https://wandb.example.org"}, tmp_path) == "offline"


def test_unknown_tracker_is_refused_with_the_nearest_match(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="got wanb; did you mean wandb"):
        build_trackers(["wanb"], SearchInfo(RunDir(tmp_path)))
    assert build_trackers(["jsonl"], SearchInfo(RunDir(tmp_path))) == []


def log_records(path: Path) -> Iterator[bytes]:
    """The records of a .wandb file: a LevelDB log (32 KiB blocks; checksum, length, type) after 7 bytes of header."""
    data, place, parts = path.read_bytes(), 7, b""
    while place + 7 <= len(data):
        if 32768 - place % 32768 < 7:  # no record starts in a block's last bytes
            place += 32768 - place % 32768
            continue
        _, length, kind = struct.unpack_from("<IHB", data, place)
        parts += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # a whole record, or its last part
            yield parts
            parts = b""


def history(folder: Path) -> list[dict[str, float]]:
    """The logged steps in an offline run's file."""
    from wandb.proto import wandb_internal_pb2

    steps = []
    for data in log_records(next(folder.glob("run-*.wandb"))):
        record: Any = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        if record.WhichOneof("record_type") == "history":
            items = {(item.key or "/".join(item.nested_key)): item.value_json for item in record.history.item}
            steps.append({key: json.loads(value) for key, value in items.items()})
    return steps


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    yield
    import wandb

    wandb.teardown()


def test_every_trial_is_a_wandb_run_with_its_history(offline: None, tmp_path: Path) -> None:
    """Two runs at once, in this process and W&B's own, no Ray actor."""
    import wandb

    said: list[str] = []
    tracker, trials = WandbTracker(SearchInfo(RunDir(tmp_path)), say=said.append), [make_row(0), make_row(1)]
    tracker.begin({}, 2)
    for trial in trials:
        tracker.trial_started(trial)
    for trial in (trials[0], trials[1], trials[1]):
        trial.epochs += 1
        tracker.epoch(trial, {"epoch": trial.epochs, "val/miou": 0.25 * (trial.number + 1), "val/iou": [1], "pid": 3})
    for trial in trials:
        trial.state = "COMPLETE"
        tracker.trial_ended(trial)
    tracker.end()
    wandb.teardown()  # its service writes the files behind our back; this waits for it
    folders = {trial.number: next((tmp_path / "wandb").glob(f"offline-run-*-{trial.trial}-*")) for trial in trials}
    assert [step["val/miou"] for step in history(folders[0])] == [0.25]
    assert [step["val/miou"] for step in history(folders[1])] == [0.5, 0.5]
    assert [step["epoch"] for step in history(folders[1])] == [1, 2]
    assert "wandb sync" in said[0]


@pytest.mark.parametrize("line", ["[1]", '{"event": "epoch", "trial": 3}', '{"a": "\\ud800"}', "[" * 9999 + "}"])
def test_a_line_that_is_no_event_is_named(tmp_path: Path, line: str) -> None:
    (tmp_path / "events.jsonl").write_text(f"{line}\n")
    with pytest.raises(ValueError, match=r"events.jsonl:1 must be one"):
        list(read_events(tmp_path / "events.jsonl"))
