"""Runs jobs over stored logits as Ray tasks, which read logits and labels on their own node.

A task takes several images and one CPU, with one thread. Stores and the cache travel as paths: on one machine they are
local; on a cluster the cache lies on every node, which has built it. Tasks run where the run's directory is seen: by
Ray's default policy where every node does, else all on the driver's node.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import ray

from analysis.voting.executor import Job, Progress, R, Say, silent
from search.cluster.nodes import live_nodes, num_holders
from search.cluster.ray_tasks import portable_errors, result_of
from search.cluster.run_files import RunFiles
from trainables.worker_process import prepare_worker

TASKS_A_SLOT = 8  # so that the last ones end together
MOST_IMAGES = 32  # per task: what a lost node costs
MAX_RETRIES = 3  # of a part whose node was lost; what a job raises is final


@dataclass(frozen=True)
class RayExecutor:
    """Runs in the cluster that this process is connected to. A job with a device runs in actors that hold
    `gpus_per_task` each: Ray ends the process of a task that had a GPU, and with it what CUDA takes seconds to set up.
    At most twice as many results wait here as there are slots."""

    gpus_per_task: float = 0.0
    images_per_task: int | None = None  # None: by the number of images and of slots
    say: Say = silent
    files: RunFiles | None = None  # None: every node sees what jobs read

    @property
    def device(self) -> str | None:
        return "cuda" if self.gpus_per_task else None

    def __call__(self, job: Job[R], ids: Sequence[str], what: str = "") -> Iterator[R]:
        gpus = self.gpus_per_task if job.device else 0.0
        nodes = self.files.where_seen(live_nodes()) if self.files else live_nodes()
        placement: Any = self.files.placement if self.files else "DEFAULT"
        slots = max(1, num_holders({"cpu": 1.0, "gpu": gpus}, nodes))
        size = self.images_per_task or min(MOST_IMAGES, max(1, len(ids) // (TASKS_A_SLOT * slots)))
        held, flying = ray.put(job), deque[Any]()
        progress, sizes = Progress(self.say, what, len(ids)), deque[int]()
        actors = [_actor(gpus, placement) for _ in range(slots)] if gpus else []
        task: Any = ray.remote(num_cpus=1, max_retries=MAX_RETRIES, scheduling_strategy=placement)(_run)
        try:
            for n, start in enumerate(range(0, len(ids), size)):
                remote = actors[n % slots].run.remote if actors else task.remote
                part = ids[start : start + size]
                flying.append(remote(held, part))
                sizes.append(len(part))
                if len(flying) >= 2 * slots:  # a slow part must not let all others pile up behind it
                    yield progress.after(sizes.popleft(), result_of(flying.popleft()))
            while flying:
                yield progress.after(sizes.popleft(), result_of(flying.popleft()))
        finally:
            for actor in actors:  # tasks end by themselves: to cancel one is a race, see ray_tasks.in_turn
                ray.kill(actor)


@portable_errors
def _run(job: Job[R], ids: Sequence[str], gpus: float = 0.0) -> R:
    prepare_worker(1, gpus)
    return job(ids)


class _Runner:
    def __init__(self, gpus: float) -> None:
        self.gpus = gpus

    def run(self, job: Job[R], ids: Sequence[str]) -> R:
        return _run(job, ids, self.gpus)


def _actor(gpus: float, placement: Any) -> Any:
    limits: dict[str, Any] = {"max_restarts": MAX_RETRIES, "max_task_retries": MAX_RETRIES}
    return ray.remote(num_cpus=1, num_gpus=gpus, scheduling_strategy=placement, **limits)(_Runner).remote(gpus)
