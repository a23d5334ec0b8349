"""The Optuna study of a run, its only durable state: one SQLite file, or a journal where its disk is shared.

Which it is, the file's name says. Everybody opens it here.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Literal, TypeAlias

import optuna
from optuna.storages import RDBStorage
from optuna.trial import TrialState
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from search.engine.network_disk import shared_file_system
from search.engine.study_journal import StudyJournal, entries
from search.run_dir import JOURNAL, RunDir

STUDY_NAME = "segsearch"
Storage: TypeAlias = RDBStorage | StudyJournal


def begin_study(run: RunDir, kind: Literal["auto", "sqlite", "journal"], say: Callable[[str], None]) -> None:
    """Settle what the study of a run is, unless there is one: a journal leaves an empty file.

    Raises ValueError for SQLite on a disk that other machines share.
    """
    shared = shared_file_system(run.root)
    if run.study_db.exists():
        if shared and run.study_db.name != JOURNAL:
            say(f"warning: {run.study_db} is SQLite's, on {shared}: keep copies, its locks may fail there")
    elif kind == "sqlite" and shared:
        raise ValueError(
            f"search.study: sqlite needs a disk of this machine, got {run.root} on {shared}, where its locks may fail; "
            "set it to journal or auto"
        )
    elif kind == "journal" or shared:
        say(f"the study is a journal, {JOURNAL}" + (f": {run.root} lies on {shared}" if shared else ""))
        (run.root / JOURNAL).touch()


def open_storage(path: Path) -> Storage:
    """The storage that optuna-dashboard opens too, for the one process that writes.

    SQLite uses a write-ahead log: a tenth of a rollback journal's time per epoch, consistent after SIGKILL and power
    loss. While it is open, `study.db-wal` belongs to it, and other readers must be on the same machine. Raises
    ValueError for a file that is no study, or not whole.
    """
    return _open_journal(path, is_writer=True) if path.name == JOURNAL else _open_sqlite(path)


def close_storage(storage: Storage) -> None:
    """Fold `study.db-wal` into `study.db`."""
    if isinstance(storage, RDBStorage):
        storage.engine.dispose()


def _open_journal(path: Path, *, is_writer: bool) -> StudyJournal:
    try:
        return StudyJournal(path, is_writer=is_writer)
    except (ValueError, LookupError, TypeError, AttributeError, AssertionError, ArithmeticError, RuntimeError) as error:
        raise ValueError(_broken(path, f"{type(error).__name__}: {error}")) from error


def _open_sqlite(path: Path) -> RDBStorage:
    location = path.resolve()
    _check_file(location)

    def connect() -> sqlite3.Connection:
        connection = sqlite3.connect(location, timeout=60, check_same_thread=False)
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")
        return connection

    try:
        return RDBStorage(f"sqlite:///{location}", engine_kwargs={"creator": connect})
    except (SQLAlchemyError, RuntimeError, AssertionError) as error:  # RuntimeError: of another version of Optuna
        raise ValueError(_broken(location, error)) from error


def open_study(path: Path) -> optuna.Study:
    """The study of an earlier or running search, for reading.

    Raises ValueError where there is none, or a broken one.
    """
    if not path.is_file():
        raise ValueError(f"the study of a run must exist, got no file {path}; give the folder of an earlier run")
    try:
        storage = _open_journal(path, is_writer=False) if path.name == JOURNAL else _open_sqlite(path)
        return optuna.load_study(study_name=STUDY_NAME, storage=storage)
    except KeyError as error:
        raise ValueError(_broken(path, f"no study named {STUDY_NAME}")) from error


def named_checkpoints(path: Path) -> set[str]:
    """The folders of the checkpoints that a study names, relative to its run's directory. Quick: it reads no trial."""
    if path.name == JOURNAL:
        written = [entry for entry in entries(path) if "checkpoint" in entry.get("user_attr", ())]
        last = {entry["trial_id"]: entry["user_attr"]["checkpoint"]["path"] for entry in written}
        return {place for place in last.values() if not Path(place).is_absolute()}
    with closing(sqlite3.connect(path, timeout=60)) as connection:
        question = "SELECT value_json FROM trial_user_attributes WHERE \"key\" = 'checkpoint'"
        try:
            stored = [json.loads(text)["path"] for (text,) in connection.execute(question)]
        except sqlite3.OperationalError:  # Optuna has not made its tables yet
            return set()
    return {place for place in stored if not Path(place).is_absolute()}  # earlier versions' lie elsewhere


def _check_file(path: Path) -> None:
    """Raises ValueError where there is a file that SQLite cannot read from end to end."""
    if not path.exists() or (path.is_file() and path.stat().st_size == 0):
        return
    try:
        with closing(sqlite3.connect(path, timeout=60)) as connection:
            found = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    except sqlite3.Error as error:
        raise ValueError(_broken(path, error)) from error
    if found != "ok":
        raise ValueError(_broken(path, found))


def _broken(path: Path, reason: object) -> str:
    if not os.access(path.parent, os.W_OK):
        return (
            f"the folder of a study must be writable, as SQLite keeps its log there, got {path.parent}; copy the run "
            "to a place that is"
        )
    kind, beside = (
        ("journal", "") if path.name == JOURNAL else ("SQLite file", " with its -wal file where there is one,")
    )
    return (
        f"the study of a run must be a whole {kind} of Optuna, got {path} ({str(reason).splitlines()[0]:.200}); "
        f"restore it from a copy,{beside} or start a new run"
    )


def root_of(storage: Storage) -> Path:
    """The folder of the study's file, which paths in the study are relative to, so that a run can be moved."""
    if isinstance(storage, StudyJournal):
        return storage.path.parent
    return Path(storage.engine.url.database or "").parent


def rewind_trial(storage: Storage, trial_id: int) -> None:
    """Sets an unfinished trial back to WAITING, as it was before `study.ask`, so that `ask` returns it again.

    Stored parameters go too: a sampler skips its draw for a stored parameter, and every later draw would differ. What
    `enqueue_trial` fixed stays. Optuna has no call that deletes a parameter, hence the SQL.
    """
    if isinstance(storage, StudyJournal):
        storage.rewind(trial_id)
        return
    with storage.engine.begin() as connection:
        for statement in (
            "DELETE FROM trial_params WHERE trial_id = :trial_id",
            "DELETE FROM trial_user_attributes WHERE trial_id = :trial_id",
            "DELETE FROM trial_system_attributes WHERE trial_id = :trial_id AND \"key\" <> 'fixed_params'",
        ):
            connection.execute(text(statement), {"trial_id": trial_id})
    storage.set_trial_state_values(trial_id, TrialState.WAITING)
