"""The Optuna study of a run: one SQLite file, the run's only durable state."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path

import optuna
from optuna.storages import RDBStorage
from optuna.trial import TrialState
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

STUDY_NAME = "segsearch"


def open_storage(path: Path) -> RDBStorage:
    """The SQLite storage that optuna-dashboard opens too; waits where that one holds the lock.

    Uses a write-ahead log: a tenth of a rollback journal's time per epoch, consistent after SIGKILL and power loss.
    While it is open, `study.db-wal` belongs to it, and other readers must be on the same machine. Raises ValueError for
    a file that is no study, or not whole.
    """
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
        return optuna.load_study(study_name=STUDY_NAME, storage=open_storage(path))
    except KeyError as error:
        raise ValueError(_broken(path, f"no study named {STUDY_NAME}")) from error


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
    return (
        f"the study of a run must be a whole SQLite file of Optuna, got {path} ({str(reason).splitlines()[0]:.200}); "
        "restore it from a copy, with its -wal file where there is one, or start a new run"
    )


def root_of(storage: RDBStorage) -> Path:
    """The folder of the study's file, which paths in the study are relative to, so that a run can be moved."""
    return Path(storage.engine.url.database or "").parent


def rewind_trial(storage: RDBStorage, trial_id: int) -> None:
    """Sets an unfinished trial back to WAITING, as it was before `study.ask`, so that `ask` returns it again.

    Stored parameters go too: a sampler skips its draw for a stored parameter, and every later draw would differ. What
    `enqueue_trial` fixed stays. Optuna has no call that deletes a parameter, hence the SQL.
    """
    with storage.engine.begin() as connection:
        for statement in (
            "DELETE FROM trial_params WHERE trial_id = :trial_id",
            "DELETE FROM trial_user_attributes WHERE trial_id = :trial_id",
            "DELETE FROM trial_system_attributes WHERE trial_id = :trial_id AND \"key\" <> 'fixed_params'",
        ):
            connection.execute(text(statement), {"trial_id": trial_id})
    storage.set_trial_state_values(trial_id, TrialState.WAITING)
