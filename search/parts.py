"""The fitting sample in Ray actors: each holds the pixels of its own images, where it drew them.

Enters: a job that makes a `Part` of image ids, and all ids. Leaves: `RayPixels`, which the exact search takes for one
part: counts and histograms are summed and events joined here, a few kilobytes a call, and no pixel is. The same weights
come out, to the last bit, as from one process. The actors take one CPU each and are spread over the nodes, so that the
sample may be as large as the memory of all; where one is lost, the search fails, and the stage is run again.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Any

import numpy as np
import ray
from numpy.typing import NDArray

from analysis.linesearch import Counts, Events, Span
from analysis.part import Pixels, Reach
from analysis.spread import Job
from analysis.voting import Float, Labels
from search.spread import result_of
from trainables.segmentation import prepare_worker


class Holder:
    """An actor: what a job made of its images, and the calls of it."""

    def __init__(self, job: Job[Any], ids: Sequence[str]) -> None:
        prepare_worker(1)
        self.held = job(ids)

    def call(self, name: str, *arguments: Any) -> Any:
        found = getattr(self.held, name)
        return found(*arguments) if callable(found) else found


class RayPixels:
    """All actors' pixels as one `Pixels`, in the order of the ids. Ends with its context."""

    def __init__(self, job: Job[Pixels], ids: Sequence[str], num_actors: int) -> None:
        actor: Any = ray.remote(num_cpus=1, scheduling_strategy="SPREAD")(Holder)
        held = ray.put(job)
        shares = [share.tolist() for share in np.array_split(np.arange(len(ids)), min(num_actors, len(ids)))]
        self.actors = [actor.remote(held, [ids[i] for i in share]) for share in shares]
        self.shape: tuple[int, int] = self._of_each("shape")[0]
        self.labelled: list[int] = self._of_each("num_labelled")

    def __enter__(self) -> RayPixels:
        return self

    def __exit__(self, kind: type[BaseException] | None, _e: BaseException | None, _t: TracebackType | None) -> None:
        for actor in self.actors:
            ray.kill(actor)

    def num_labelled(self) -> int:
        return sum(self.labelled)

    def every(self, step: int, offset: int) -> tuple[Float, Labels, NDArray[np.int64]]:
        begins = np.cumsum([0, *self.labelled[:-1]]).tolist()
        waiting = [
            actor.call.remote("every", step, (offset - begin) % step)
            for actor, begin in zip(self.actors, begins, strict=True)
        ]
        q, truth, weighs = zip(*(result_of(one) for one in waiting), strict=True)
        return np.concatenate(q, axis=2), np.concatenate(truth), np.concatenate(weighs)

    def confusion(self, weights: Float) -> Counts:
        return self._sum("confusion", weights)

    def restart(self, weights: Float) -> Counts:
        return self._sum("restart", weights)

    def open(self, k: int, reach: Reach) -> Counts:
        return self._sum("open", k, reach)

    def histogram(self, member: int | None, column: Float, span: Span) -> Counts:
        return self._sum("histogram", member, column, span)

    def events(self, flagged: NDArray[np.bool_]) -> Events:
        return Events.merged(self._of_each("events", flagged))

    def won(self, column: Float) -> Counts:
        return self._sum("won", column)

    def commit(self, column: Float) -> None:
        self._of_each("commit", column)

    def line_histogram(self, base: Float, step: Float, span: Span) -> Counts:
        return self._sum("line_histogram", base, step, span)

    def line_events(self, flagged: NDArray[np.bool_]) -> Events:
        return Events.merged(self._of_each("line_events", flagged))

    def _of_each(self, name: str, *arguments: Any) -> list[Any]:
        """All actors at once."""
        return [result_of(one) for one in [actor.call.remote(name, *arguments) for actor in self.actors]]

    def _sum(self, name: str, *arguments: Any) -> Counts:
        total: Counts = np.sum(self._of_each(name, *arguments), axis=0, dtype=np.int64)
        return total
