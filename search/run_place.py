"""Takes the place of a run for this process: a folder, or a URI and the folder here in which it is worked on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from search.remote.working_copy import WorkingCopy, working_copy
from search.run_arguments import RunArguments, resume_command
from search.run_dir import RunDir, check_new, existing_run_dir, new_run_dir
from search.run_lock import hold

if TYPE_CHECKING:
    from filelock import SoftFileLease

Say = Callable[[str], None]


@dataclass(frozen=True)
class Place:
    """A run's place, locked by this process."""

    run: RunDir
    lease: SoftFileLease
    name: str  # its directory or URI, as the user knows it
    resume: str  # the command that goes on with the run
    is_remote: bool

    def __str__(self) -> str:
        return f"{self.name}, worked on in {self.run.root}" if self.is_remote else self.name


def hold_existing(asked: RunArguments, argv: Sequence[str], held: ExitStack, say: Say) -> Place:
    """The place of `--resume`, held until `held` is closed; one at a URI has its newest files in its folder here.

    Raises ValueError where there is no run, another process works on it, or its storage fails.
    """
    assert asked.resume is not None
    copy = working_copy(asked.resume, "--resume", asked.cache_dir)
    if copy is None:
        return _held(asked, existing_run_dir(asked.resume), argv, held, say)
    copy.root.mkdir(parents=True, exist_ok=True)
    place = _held(asked, RunDir(copy.root), argv, held, say, copy=copy)
    if not place.run.run_json.is_file():
        raise ValueError(f"--resume needs a run with a run.json, got {copy.uri}, where there is none")
    return place


def hold_new(asked: RunArguments, argv: Sequence[str], now: datetime, held: ExitStack, say: Say) -> Place:
    """A place of its own for a new run. Raises ValueError where there is a run, and where it takes no writes."""
    copy = working_copy(asked.run_dir, "--run-dir", asked.cache_dir) if asked.run_dir else None
    name = copy.uri if copy else None
    if copy:
        check_new(copy.root, name)
    run = new_run_dir(Path(asked.space or "").stem, now, copy.root if copy else asked.run_dir)
    place = _held(asked, run, argv, held, say, copy=copy)
    check_new(run.root, name)  # again: another process may have been quicker
    return place


def _held(
    asked: RunArguments,
    run: RunDir,
    argv: Sequence[str],
    held: ExitStack,
    say: Say,
    *,
    copy: WorkingCopy | None = None,
) -> Place:
    name = copy.uri if copy else str(run.root)
    resume = resume_command(asked, argv, name)
    lease = held.enter_context(hold(run.root, say))
    if copy:
        from search.remote.keep import kept_at  # Optuna and pyarrow, only where they are needed

        held.enter_context(kept_at(copy, is_new=asked.resume is None, resume=resume, say=say))
    return Place(run, lease, name, resume, copy is not None)
