"""What is told of a stage's tasks as they end: how many are left and for about how long; and when each ran, in
events.jsonl."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from search.cluster.ray_tasks import Ended, Work
from search.observers.event_log import append_event
from search.observers.progress import duration
from search.stages.stage import Context, Stage


@dataclass(frozen=True)
class TaskLog:
    """Of `total` tasks of a stage, which `name` names."""

    context: Context
    stage: Stage
    total: int
    clock: Callable[[], float] = time.monotonic

    def watch(
        self, ends: Iterator[Ended[Work]], name: Callable[[Work], str], held: Callable[[Work], Mapping[str, float]]
    ) -> Iterator[Ended[Work]]:
        """Passes on the ends of tasks of `timed` work, each with its result alone. `held` says what a task held,
        {"cpu": ..., "gpu": ...}."""
        begun_s = self.clock()
        for num_ended, (item, done, error) in enumerate(ends, start=1):
            if error is None:
                what = {"event": "task", "stage": self.stage.value, "name": name(item), "began": done.began_s}
                append_event(self.context.run.events, {"at": done.ended_s, **what, **held(item)})
            yield item, None if error else done.result, error
            if num_ended < self.total:
                left_s = (self.clock() - begun_s) / num_ended * (self.total - num_ended)
                self.context.say(f"{self.stage}: {num_ended} of {self.total} ended, about {duration(left_s)} left")
