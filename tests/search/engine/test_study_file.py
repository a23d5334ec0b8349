"""A study that is not whole, or not ours, is one message."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import optuna
import pytest

from search.engine.study_file import STUDY_NAME, close_storage, named_checkpoints, open_storage, open_study
from search.observers.trial_row import study_rows
from search.run_dir import JOURNAL


@pytest.fixture
def path(tmp_path: Path) -> Path:
    storage = open_storage(tmp_path / "study.db")
    optuna.create_study(study_name=STUDY_NAME, storage=storage).ask().set_user_attr("identity", {"hash": "x"})
    close_storage(storage)
    return tmp_path / "study.db"


def cut(raw: bytes) -> bytes:
    return raw[: len(raw) // 2]


def blotted(raw: bytes) -> bytes:
    return raw[:4096] + b"\xff" * 8192 + raw[4096 + 8192 :]


@pytest.mark.parametrize("damage", [cut, blotted, lambda _: b"no database", lambda raw: raw[:100]])
def test_a_broken_file_is_named(path: Path, damage: Callable[[bytes], bytes]) -> None:
    path.write_bytes(damage(path.read_bytes()))
    for each in (open_study, open_storage):
        with pytest.raises(ValueError, match=r"must be a whole SQLite file of Optuna, got .*study\.db \(.* restore it"):
            each(path)


def test_a_study_on_a_read_only_disk_is_named(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("search.engine.study_file.os.access", lambda *_: False)  # root may write anywhere
    path.write_bytes(b"what SQLite cannot open")
    with pytest.raises(ValueError, match=r"the folder of a study must be writable, .* copy the run to a place that is"):
        open_study(path)


def test_a_database_without_the_study_is_named(tmp_path: Path) -> None:
    open_storage(tmp_path / "study.db").engine.dispose()
    with pytest.raises(ValueError, match="no study named segsearch"):
        open_study(tmp_path / "study.db")


def test_a_trial_with_another_record_is_named(path: Path) -> None:
    with pytest.raises(ValueError, match=r"this program's own records, got others, trial 0 \(KeyError: 'recipe'\)"):
        study_rows(open_study(path), path.parent)


@pytest.mark.parametrize(
    "damage",
    [lambda raw: raw[: len(raw) // 2] + b"x\n" + raw, lambda raw: raw + b"x\n", lambda _: b"{}\n", lambda _: b"[1]\n"],
)
def test_a_broken_journal_is_named(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    path = tmp_path / JOURNAL
    optuna.create_study(study_name=STUDY_NAME, storage=open_storage(path))
    path.write_bytes(damage(path.read_bytes()))
    for each in (open_study, open_storage):
        with pytest.raises(ValueError, match=r"must be a whole journal of Optuna, got .* restore it"):
            each(path)


def test_a_reader_leaves_a_journal_that_is_being_written_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / JOURNAL
    optuna.create_study(study_name=STUDY_NAME, storage=open_storage(path)).ask()
    with path.open("a") as file:
        file.write('{"op_code"')
    before = path.read_bytes()
    assert len(open_study(path).trials) == 1
    assert path.read_bytes() == before


@pytest.mark.parametrize("name", ["study.db", JOURNAL])
def test_the_checkpoints_that_a_study_names_are_the_last_ones(tmp_path: Path, name: str) -> None:
    study = optuna.create_study(study_name=STUDY_NAME, storage=open_storage(tmp_path / name))
    for _ in range(2):
        trial = study.ask()
        for epoch in (1, 2):
            trial.set_user_attr("checkpoint", {"path": f"tune/{trial.number}/{epoch}", "epoch": epoch})
    study.ask()
    assert named_checkpoints(tmp_path / name) == {"tune/0/2", "tune/1/2"}
