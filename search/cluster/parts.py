"""Shares of the fitting sample in Ray actors: each holds the pixels of its own images, where it drew them.

Enters: what makes a share, and the image ids of each. Leaves: `HeldInActors`, which is asked for counts and histograms,
a few kilobytes a call. The actors take one CPU each and are spread over the nodes, so that the sample may be as large
as the memory of all; where one is lost, the fit fails, and the stage is run again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ray

from analysis.voting.executor import HERE, Held, Making
from search.cluster.ray_tasks import result_of
from trainables.worker_process import prepare_worker


class Holder:
    """An actor: one share."""

    def make(self, making: Making, ids: Sequence[str]) -> None:
        prepare_worker(1)
        self.held = Held(making(ids, HERE))

    def call(self, method: str, *arguments: Any) -> Any:
        return getattr(self.held, method)(*arguments)


class HeldInActors:
    """`analysis.spread.Places`; the actors work at the same time, and end when it is closed."""

    def __init__(self, making: Making, shares: Sequence[Sequence[str]]) -> None:
        actor: Any = ray.remote(num_cpus=1, scheduling_strategy="SPREAD")(Holder)
        held = ray.put(making)
        self.actors = [actor.remote() for _ in shares]
        try:
            self._all([actor.make.remote(held, ids) for actor, ids in zip(self.actors, shares, strict=True)])
        except Exception:
            self.close()
            raise

    @property
    def num(self) -> int:
        return len(self.actors)

    def each(self, method: str, arguments: Sequence[tuple[Any, ...]]) -> list[Any]:
        calls = zip(self.actors, arguments, strict=True)
        return self._all([actor.call.remote(method, *given) for actor, given in calls])

    def close(self) -> None:
        for actor in self.actors:
            ray.kill(actor)
        self.actors.clear()

    @staticmethod
    def _all(waiting: Sequence[Any]) -> list[Any]:
        return [result_of(one) for one in waiting]
