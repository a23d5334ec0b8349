"""Makes a long search of a short one, for what depends on the number of trials alone."""

from __future__ import annotations

import re
import sqlite3
from contextlib import closing

from search.run_dir import RunDir

TRIAL = re.compile(r'"trial": "(\d+)"')


def copy_trials(run: RunDir, num_trials: int) -> None:
    """Copy the trials of a search that has ended, with their events, until there are `num_trials`."""
    events = run.events.read_text(encoding="utf-8").splitlines(keepends=True)
    with closing(sqlite3.connect(run.study_db)) as base, base:
        tables = [name for (name,) in base.execute("SELECT name FROM sqlite_master WHERE name GLOB 'trial*'")]
        have = num_own = base.execute("SELECT count(*) FROM trials").fetchone()[0]
        while have < num_trials:
            num_new = min(num_own, num_trials - have)
            for table in tables:
                _copy_rows(base, table, num_new, have)
            moved = [_renumbered(line, num_new, have) for line in events]
            with run.events.open("a", encoding="utf-8") as file:
                file.writelines(filter(None, moved))
            have += num_new


def _copy_rows(base: sqlite3.Connection, table: str, num_trials: int, offset: int) -> None:
    """The rows of the first trials once more, under later numbers. Trials' ids are their numbers plus 1."""
    columns = [column for _, column, *_, is_key in base.execute(f"PRAGMA table_info({table})") if not is_key]
    columns += ["trial_id"] if table == "trials" else []
    moved = [f"{name} + {offset}" if name in ("trial_id", "number") else f'"{name}"' for name in columns]
    names = ", ".join(f'"{name}"' for name in columns)
    base.execute(  # names are the schema's own
        f"INSERT INTO {table} ({names}) SELECT {', '.join(moved)} FROM {table} WHERE trial_id <= ?",  # noqa: S608
        (num_trials,),
    )


def _renumbered(line: str, num_trials: int, offset: int) -> str:
    """An event of one of the first trials under its later name; empty for others."""
    found = TRIAL.search(line)
    if found is None or int(found[1]) >= num_trials:
        return ""
    return TRIAL.sub(f'"trial": "{int(found[1]) + offset:05d}"', line)
