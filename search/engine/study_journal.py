"""The study as Optuna's journal, a file that is only appended to: for disks where SQLite's locks fail."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.storages.journal._storage import JournalOperation
from optuna.trial import TrialState

from trainables.files import write_atomically

OF_A_SUGGESTION = (
    JournalOperation.SET_TRIAL_PARAM,
    JournalOperation.SET_TRIAL_STATE_VALUES,
    JournalOperation.SET_TRIAL_USER_ATTR,
)


class StudyJournal(JournalStorage):
    """A journal that can set back a trial. `is_writer`: this process alone writes, as the holder of the run's lock."""

    def __init__(self, path: Path, *, is_writer: bool) -> None:
        self.path = path
        if is_writer:
            _repair(path)
        elif not path.is_file():
            raise FileNotFoundError(path)  # the backend would make it
        if path.is_file():
            deque(entries(path), maxlen=0)  # the backend would pass over a broken last line, and stumble at the next
        super().__init__(JournalFileBackend(str(path)))

    def rewind(self, trial_id: int) -> None:
        """Set a trial back to WAITING: all that was written of it after it was created or enqueued goes. What an
        interrupted suggestion wrote is the last that a driver did, so nothing of others is lost."""
        kept = [entry for entry in entries(self.path) if not _is_of_suggestion(entry, trial_id)]
        lines = "".join(json.dumps(entry, separators=(",", ":")) + "\n" for entry in kept)
        write_atomically(self.path, lambda path: path.write_text(lines, encoding="utf-8"))
        self.__init__(self.path, is_writer=True)  # type: ignore[misc]  # reads the journal anew
        self.set_trial_state_values(trial_id, TrialState.WAITING)


def entries(path: Path) -> Iterator[dict[str, Any]]:
    """The operations of a journal, without one that is being written. Raises ValueError for a broken one."""
    with path.open("rb") as lines:
        for line in lines:
            if line.endswith(b"\n"):
                yield json.loads(line)


def _is_of_suggestion(entry: dict[str, Any], trial_id: int) -> bool:
    if entry.get("trial_id") != trial_id:
        return False
    system = entry.get("system_attr", {})
    return entry["op_code"] in OF_A_SUGGESTION or bool(system and "fixed_params" not in system)


def _repair(path: Path) -> None:
    """Remove what a killed process left: half a line, and its lock, for which others would wait half a minute."""
    path.with_name(f"{path.name}.lock").unlink(missing_ok=True)
    if not path.exists():
        return
    with path.open("rb+") as file:
        content = file.read()
        file.truncate(content.rfind(b"\n") + 1)
