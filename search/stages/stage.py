"""The stages of a run in their order, and the context that each of them gets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from search.cluster.run_files import RunFiles
    from search.run_dir import RunDir
    from search.space.space import Space
    from search.stages.run_data import Data


class Stage(StrEnum):
    """The stages of a run, in their order."""

    search = "search"
    noise = "noise"
    soups = "soups"
    folds = "folds"
    logits = "logits"
    ensemble = "ensemble"
    bundle = "bundle"
    pseudo = "pseudo"
    report = "report"


@dataclass(frozen=True)
class Context:
    """What every stage gets."""

    run: RunDir
    space: Space
    data: Data
    say: Callable[[str], None]
    now: Callable[[], datetime]
    more_trackers: tuple[str, ...] = ()  # of the command line, besides the space's
    run_files: RunFiles | None = None  # None: every node sees the run's directory

    @property
    def files(self) -> RunFiles:
        """The run's files, for tasks."""
        from search.cluster.run_files import RunFiles  # Ray, only where there are tasks

        return self.run_files or RunFiles(self.run)

    @property
    def trackers(self) -> tuple[str, ...]:
        """The names of all trackers of this session."""
        return (*self.space.options.trackers, *self.more_trackers)
