"""Where the passes over stored logits run.

Enters: a job (a function of image ids that reads stores and labels by itself) and ids. Leaves: its results for parts of
the ids, in their order. `Here` runs the parts one after the other in this process; `search.spread` makes them tasks of
a cluster. A job's result for an image may depend on nothing but the job and that image, so that no way of dividing
the ids shows in a result. What is asked many times stays where it was made (`Places`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np

R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)


class Job(Protocol[R_co]):
    """Travels to other processes by pickle, so it holds paths and numbers, and no pixel."""

    @property
    def device(self) -> str | None:
        """The torch device that it computes on; None: the CPU's own kernels."""
        ...

    def __call__(self, ids: Sequence[str]) -> R_co: ...


class Spread(Protocol):
    """Runs a job over all ids; a part that fails raises what the job raised."""

    @property
    def device(self) -> str | None:
        """The torch device that jobs may ask for here; None where there is none worth it."""
        ...

    def __call__(self, job: Job[R], ids: Sequence[str]) -> Iterator[R]: ...

    def hold(self, making: Making, ids: Sequence[str]) -> Places:
        """Shares of consecutive ids, each held where it is made."""
        ...


class Making(Protocol):
    """Makes a share of ids, reading them as `spread` does; travels as a `Job` does."""

    def __call__(self, ids: Sequence[str], spread: Spread) -> object: ...


class Held:
    """A share, and what is made of it: each by a method of the one before it, and gone before that is."""

    def __init__(self, share: object) -> None:
        self.things = [share]

    def call(self, depth: int, name: str, *arguments: Any) -> Any:
        return getattr(self.things[depth], name)(*arguments)

    def push(self, depth: int, name: str, *arguments: Any) -> None:
        assert depth == len(self.things) - 1, "what was made of it before has to go first"
        self.things.append(self.call(depth, name, *arguments))

    def pop(self) -> None:
        self.things.pop()


class Places(Protocol):
    """The `Held` of each share, in the order of their ids; gone once closed."""

    @property
    def num(self) -> int: ...
    def each(self, method: str, arguments: Sequence[tuple[Any, ...]]) -> list[Any]:
        """What a method of `Held` returns for each share, with its own arguments."""
        ...

    def close(self) -> None: ...


class HeldHere:
    """In this process."""

    def __init__(self, held: Sequence[Held]) -> None:
        self.held = list(held)

    @property
    def num(self) -> int:
        return len(self.held)

    def each(self, method: str, arguments: Sequence[tuple[Any, ...]]) -> list[Any]:
        return [getattr(held, method)(*given) for held, given in zip(self.held, arguments, strict=True)]

    def close(self) -> None:
        self.held.clear()


def divide(ids: Sequence[str], num: int) -> list[list[str]]:
    """At most `num` shares of consecutive ids, about as many in each."""
    return [[ids[i] for i in share] for share in np.array_split(np.arange(len(ids)), min(num, len(ids)))]


@dataclass(frozen=True)
class Here:
    """In this process, `images_a_part` at a time; what is held is held in `num_shares`."""

    images_a_part: int = 16
    device: str | None = None
    num_shares: int = 1

    def hold(self, making: Making, ids: Sequence[str]) -> Places:
        return HeldHere([Held(making(share, self)) for share in divide(ids, self.num_shares)])

    def __call__(self, job: Job[R], ids: Sequence[str]) -> Iterator[R]:
        for start in range(0, len(ids), self.images_a_part):
            yield job(ids[start : start + self.images_a_part])


HERE = Here()


def device_caveat(spread: Spread) -> str | None:
    """What a reader of the scores has to know where they were not counted by the CPU's kernels."""
    if spread.device is None:
        return None
    return (
        f"all scores were counted on {spread.device}, on probabilities that differ in rounding from those of the CPU, "
        "which weights were fitted on: a pixel whose two highest scores agree to six digits may have either label"
    )
