"""Jobs over stored logits as Ray tasks: where a task runs, there its logits and labels are read.

Enters: a job and image ids (`analysis.spread`). Leaves: the job's results for parts of the ids, in their order. A task
takes several images and one CPU, with one thread. Stores and the cache travel as paths: on one machine they are local;
on a cluster the run directory and the cache's folder must lie at the same place on every node (a shared disk, or a
cache that every node has built, as each does that has trained). Tasks are placed by Ray's own rule.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import ray

from analysis.voting.executor import Held, HeldHere, Job, Making, Places, R, divide
from search.cluster.parts import HeldInActors
from search.cluster.ray_tasks import result_of
from trainables.worker_process import prepare_worker

TASKS_A_SLOT = 8  # so that the last ones end together
MOST_IMAGES = 32  # a task: what a lost node costs
ACTORS_A_NODE = 4  # that hold shares: a call waits for all of them, and costs more the more there are
MAX_RETRIES = 3  # of a part whose node was lost; what a job raises is final


@dataclass(frozen=True)
class RaySpread:
    """Runs in the cluster that this process is connected to. A job with a device runs in actors that hold
    `gpus_a_task` each: Ray ends the process of a task that had a GPU, and with it what CUDA takes seconds to set up.
    At most twice as many results wait here as there are slots."""

    gpus_a_task: float = 0.0
    images_a_task: int | None = None  # None: by the number of images and of slots
    in_actors: bool | None = None  # where what is held lies, else in this process; None: where there are more nodes

    @property
    def device(self) -> str | None:
        return "cuda" if self.gpus_a_task else None

    def __call__(self, job: Job[R], ids: Sequence[str]) -> Iterator[R]:
        slots = slots_of_cluster(self.gpus_a_task if job.device else 0.0)
        size = self.images_a_task or min(MOST_IMAGES, max(1, len(ids) // (TASKS_A_SLOT * slots)))
        held, flying = ray.put(job), deque[Any]()
        actors = [_actor(self.gpus_a_task) for _ in range(slots)] if job.device else []
        task: Any = ray.remote(num_cpus=1, max_retries=MAX_RETRIES)(_run)
        try:
            for n, start in enumerate(range(0, len(ids), size)):
                remote = actors[n % slots].run.remote if actors else task.remote
                flying.append(remote(held, ids[start : start + size]))
                if len(flying) >= 2 * slots:  # a slow part must not let all others pile up behind it
                    yield result_of(flying.popleft())
            while flying:
                yield result_of(flying.popleft())
        finally:
            for waiting in [] if actors else flying:
                ray.cancel(waiting)
            for actor in actors:
                ray.kill(actor)

    def hold(self, making: Making, ids: Sequence[str]) -> Places:
        """In this process on one node; else in actors, so that this process holds no share. They take a CPU each,
        where other tasks may wait for them to be closed."""
        nodes = num_nodes()
        if nodes > 1 if self.in_actors is None else self.in_actors:
            return HeldInActors(making, divide(ids, min(slots_of_cluster(0.0), ACTORS_A_NODE * nodes)))
        return HeldHere([Held(making(ids, self))])


def num_nodes() -> int:
    """That are alive."""
    return sum(bool(node["Alive"]) for node in ray.nodes())  # type: ignore[no-untyped-call]


def slots_of_cluster(gpus_a_task: float) -> int:
    """How many parts the cluster can run at once, at least 1."""
    total = ray.cluster_resources()  # type: ignore[no-untyped-call]
    slots = int(total.get("CPU", 1.0))
    return max(1, min(slots, int(total.get("GPU", 0.0) / gpus_a_task)) if gpus_a_task else slots)


def _run(job: Job[R], ids: Sequence[str]) -> R:
    prepare_worker(1)
    return job(ids)


class _Runner:
    def run(self, job: Job[R], ids: Sequence[str]) -> R:
        return _run(job, ids)


def _actor(gpus: float) -> Any:
    limits: dict[str, Any] = {"max_restarts": MAX_RETRIES, "max_task_retries": MAX_RETRIES}
    return ray.remote(num_cpus=1, num_gpus=gpus, **limits)(_Runner).remote()
