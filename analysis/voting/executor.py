"""Runs jobs over stored logits, part by part.

A job is a function of image ids that reads stores and labels by itself; an executor yields its results for consecutive
parts of the ids. `LocalExecutor` runs the parts one after the other in this process; `search.cluster.ray_executor`
makes them tasks of a cluster. A job's result for an image may depend on nothing but the job and that image, so that no
division of the ids shows in a result.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

Say = Callable[[str], None]
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)


class Job(Protocol[R_co]):
    """Travels to other processes by pickle, so it holds paths and numbers, and no pixel."""

    @property
    def device(self) -> str | None:
        """The torch device that it computes on; None: the CPU's own kernels."""
        ...

    def __call__(self, ids: Sequence[str]) -> R_co: ...


def silent(_line: str) -> None:
    """Takes progress messages of which nothing is shown."""


class Executor(Protocol):
    """Runs a job over all ids; a part that fails raises what the job raised."""

    @property
    def say(self) -> Say:
        """Takes one line of progress at a time."""
        ...

    @property
    def device(self) -> str | None:
        """The torch device that jobs may ask for here; None where there is none worth it."""
        ...

    def __call__(self, job: Job[R], ids: Sequence[str], what: str = "") -> Iterator[R]:
        """The job's results for consecutive parts of the ids, in their order. `what` names the pass to `say`."""
        ...


@dataclass
class Progress:
    """Says at every fifth of the images how far a pass is; says nothing of a pass without a name."""

    say: Say
    what: str
    total: int
    done: int = 0

    def after(self, num_images: int, result: R) -> R:
        before, self.done = self.done, self.done + num_images
        if self.what and self.done * 5 // self.total > before * 5 // self.total:
            self.say(f"{self.what}: {self.done} of {self.total} images")
        return result


@dataclass(frozen=True)
class JobGroup:
    """Several jobs in one pass: a part's files are read from disk once, and lie in memory for all of them."""

    jobs: tuple[Job[Any], ...]

    @property
    def device(self) -> str | None:
        return next((job.device for job in self.jobs if job.device), None)

    def __call__(self, ids: Sequence[str]) -> tuple[Any, ...]:
        """The result of each job."""
        return tuple(job(ids) for job in self.jobs)


@dataclass(frozen=True)
class LocalExecutor:
    """In this process, `images_per_part` at a time."""

    images_per_part: int = 16
    device: str | None = None
    say: Say = silent

    def __call__(self, job: Job[R], ids: Sequence[str], what: str = "") -> Iterator[R]:
        progress = Progress(self.say, what, len(ids))
        for start in range(0, len(ids), self.images_per_part):
            part = ids[start : start + self.images_per_part]
            yield progress.after(len(part), job(part))


LOCAL = LocalExecutor()


def device_caveat(executor: Executor) -> str | None:
    """What a reader of the scores has to know where they were not counted by the CPU's kernels."""
    if executor.device is None:
        return None
    return (
        f"all scores were counted on {executor.device}, on probabilities that differ in rounding from those of the "
        "CPU, which weights were fitted on: a pixel whose two highest scores agree to six digits may have either label"
    )
