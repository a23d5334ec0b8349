"""The steps of pseudo labels that hold a device (labelling, training, counting), and running them one after the other;
`pseudo_tasks` runs several at once.

A step is a function of a `Setting`. It leaves files, or returns counts, and does nothing that another one waits for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

from analysis.ensembling.pseudo_options import PseudoOptions
from search.students.finished_run import FinishedRun

R = TypeVar("R")


@dataclass(frozen=True)
class Setting:
    """What every step of a command shares."""

    finished: FinishedRun
    options: PseudoOptions
    device: str
    ranks: int

    def speaking_for(self, name: str) -> Setting:
        """The same, with `name` before each line that is said: steps that run at once speak at once."""
        context = self.finished.context
        named = replace(context, say=lambda line: context.say(f"{name}: {line}"))
        return replace(self, finished=replace(self.finished, context=named))


class Runner(Protocol):
    """Runs steps that do not depend on each other."""

    @property
    def setting(self) -> Setting:
        """What the steps get."""
        ...

    def __call__(self, steps: Sequence[Callable[[Setting], R]]) -> list[R]:
        """What each step returned, in their order. Raises what one of them raises; those that are done are kept."""
        ...


@dataclass(frozen=True)
class InSequence:
    """Runs steps one after the other, in this process."""

    setting: Setting

    def __call__(self, steps: Sequence[Callable[[Setting], R]]) -> list[R]:
        return [step(self.setting) for step in steps]
