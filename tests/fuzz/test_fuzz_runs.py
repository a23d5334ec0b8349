"""Run directories: run.json, ensemble.json, events.jsonl, study.db and the small files of stages."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import optuna
import pytest
from factories import as_json as ensemble_json
from factories import make_ensemble, make_member
from fuzz.hostile import as_json, damaged, examples, reads_or_refuses, spoilt
from hypothesis import example, given, settings
from hypothesis import strategies as st

from analysis.ensembling.result import EnsembleResult
from analysis.label_errors.find import rank_suspects
from analysis.prune import plan
from search.engine.study_file import STUDY_NAME, open_storage, open_study
from search.observers.event_log import read_events
from search.observers.trial_row import study_rows
from search.run_arguments import RunArguments
from search.run_dir import JOURNAL, RunDir, check_new
from search.run_record import changed_versions, check_same_arguments, has_begun, read_record
from trainables.command import DEFAULT_CACHE
from trainables.data.index import ImageRecord, SegIndex
from trainables.data.splits.split_file import FORMAT, read_folds, read_split
from trainables.logits.latency import COST_FILE, read_ms
from trainables.training.soup import SOUP_JSON, read_soup

ASKED = RunArguments("convnext.yaml", None, ("seed=1",), None, None, None, None, DEFAULT_CACHE, dashboard=False)
RECORD: dict[str, Any] = {
    "format": "segsearch-run/1",
    "command": ["run.py"],
    "asked": ASKED.given,
    "card": "/data/data.yaml",
    "data_fingerprint": "d",
    "split_fingerprint": "s",
    "space": "convnext",
    "profile": None,
    "seed": 0,
    "started": "2026-01-02T03:04:05+00:00",
    "versions": {"torch": "2.0", "ray": None},
    "git": {"commit": "c", "changed": False},
    "stages": dict.fromkeys(("search", "soups", "logits", "ensemble", "bundle", "report"), "2026-01-02"),
}
ENSEMBLE = ensemble_json(make_ensemble(["a", "b"], [make_member("0"), make_member("1")]))
INGREDIENT = {"trial": "0", "epoch": 1, "miou": 0.5, "weights": "w.safetensors"}
SMALL: dict[str, tuple[Any, Callable[[Path], object]]] = {
    COST_FILE: ({"device": "cpu", "ms_an_image": {"s1.00-none": 2.0}}, lambda path: read_ms(path.parent)),
    SOUP_JSON: (
        {"name": "n", "planned": [INGREDIENT], "ingredients": [INGREDIENT], "steps": [], "miou": 0.5},
        lambda path: read_soup(path.parent),
    ),
    "split.json": (
        {"format": FORMAT, "train": ["a"], "val": ["b"], "holdout": ["c"], "folds": [["a"], ["b"]], "notes": ["n"]},
        lambda path: (read_folds(path), read_split(path, INDEX), read_split(path, INDEX, 0)),
    ),
    "data.json": ({"train": ["a"]}, lambda path: rank_suspects([path.parent], [], None, path.parent, 1, path.parent)),
}
INDEX = SegIndex(
    "n", tuple(ImageRecord(name, Path(name), 4, 4, name, "train") for name in "abc"), ("x", "y"), "f", grouped=False
)


def read_run(run: RunDir) -> None:
    """What --resume and the report read of run.json."""
    record = read_record(run)
    changed_versions(record)
    check_same_arguments(ASKED, record)
    assert has_begun(record) or record["stages"] is not None
    datetime.fromisoformat(record["started"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("run")


@settings(max_examples=examples())
@given(damaged(RECORD).map(as_json) | spoilt(as_json(RECORD)))
@example(as_json(RECORD))
@example(as_json(RECORD | {"asked": []}))
@example(as_json(RECORD | {"versions": ["torch"], "stages": 3}))
@example(as_json(RECORD | {"started": "never"}))
def test_run_json(folder: Path, raw: bytes) -> None:
    run = RunDir(folder)
    run.run_json.write_bytes(raw)
    for read in (lambda: read_run(run), lambda: check_new(folder), lambda: plan(folder)):
        reads_or_refuses(read)


@settings(max_examples=examples())
@given(damaged(ENSEMBLE).map(as_json) | spoilt(as_json(ENSEMBLE)))
@example(as_json(ENSEMBLE))
def test_ensemble_json(folder: Path, raw: bytes) -> None:
    (folder / "ensemble.json").write_bytes(raw)
    reads_or_refuses(lambda: EnsembleResult.read(folder / "ensemble.json"))


EVENTS = b'{"at": 1, "event": "search_started"}\n{"at": 2, "event": "epoch", "trial": "0", "epoch": 1, "x": [0.5]}\n'


@settings(max_examples=examples())
@given(spoilt(EVENTS, (b"[1]\n", b"[" * 5000 + b"}\n", b"9" * 5000 + b"}\n", b'{"event": "epoch"}\n', b'"\\ud800"}\n')))
def test_events(folder: Path, raw: bytes) -> None:
    (folder / "events.jsonl").write_bytes(raw)
    reads_or_refuses(lambda: list(read_events(folder / "events.jsonl")))


@settings(max_examples=examples())
@given(st.sampled_from(sorted(SMALL)).flatmap(lambda name: st.tuples(st.just(name), damaged(SMALL[name][0]))))
def test_small_files(folder: Path, named: tuple[str, Any]) -> None:
    name, document = named
    (folder / "run.json").write_bytes(as_json({"card": str(folder / "none.yaml")}))
    (folder / name).write_bytes(as_json(document))
    reads_or_refuses(lambda: SMALL[name][1](folder / name))


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("study") / "study.db"
    storage = open_storage(path)
    optuna.create_study(study_name=STUDY_NAME, storage=storage).ask().set_user_attr("identity", {"hash": "x"})
    storage.engine.dispose()
    return path.read_bytes()


@settings(max_examples=examples(0.1))  # a tenth: SQLAlchemy takes some 50 ms to open a file
@given(st.data())
def test_study(folder: Path, study: bytes, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(study) - 1))
    junk = data.draw(st.binary(max_size=64) | st.sampled_from([b"\xff" * 5000, b"\0" * 5000]))
    whole = study[:at] + junk + study[at + len(junk) :]
    path = folder / "study.db"
    for each in (path, path.with_name("study.db-wal"), path.with_name("study.db-shm")):
        each.unlink(missing_ok=True)
    path.write_bytes(whole[:at] if data.draw(st.booleans()) else whole)
    reads_or_refuses(lambda: study_rows(open_study(path), folder))


@settings(max_examples=examples())
@given(st.data())
def test_study_journal(folder: Path, data: st.DataObject) -> None:
    path = folder / JOURNAL
    path.unlink(missing_ok=True)
    optuna.create_study(study_name=STUDY_NAME, storage=open_storage(path)).ask().set_user_attr(
        "identity", {"hash": "x"}
    )
    whole = path.read_bytes()
    at = data.draw(st.integers(0, len(whole) - 1))
    junk = data.draw(st.binary(max_size=64) | st.sampled_from([b"[1]\n", b"[" * 5000 + b"\n", b"9" * 5000 + b"\n"]))
    path.write_bytes(whole[:at] + junk + whole[at + data.draw(st.integers(0, len(junk))) :])
    reads_or_refuses(lambda: study_rows(open_study(path), folder))
