"""Runs the steps of pseudo labels as Ray tasks, as many at once as the cluster has room for.

A task holds what a trial of the recipe holds. It runs where the run's directory is seen: on any node, or on the
driver's alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import ray
from ray.util.queue import Queue

from analysis.ensembling.pseudo_options import PseudoOptions
from search.cluster.nodes import live_nodes, num_holders
from search.cluster.ray_tasks import portable_errors, results_in_turn
from search.students.finished_run import FinishedRun
from search.students.pseudo_steps import Setting
from trainables.worker_process import prepare_worker

R = TypeVar("R")


@dataclass(frozen=True)
class AsTasks:
    """A `Runner` in the cluster that this process is connected to."""

    setting: Setting
    held: Mapping[str, float]  # {"cpu": ..., "gpu": ...} of a task
    lines: Queue  # what tasks have to say
    shared: Any  # reference to the setting as tasks get it

    @staticmethod
    def of(finished: FinishedRun, options: PseudoOptions, held: Mapping[str, float]) -> AsTasks:
        device, ranks = "cuda" if held["gpu"] else "cpu", max(1, int(held["gpu"]))
        lines = Queue(actor_options={"num_cpus": 0})
        there = replace(finished, context=replace(finished.context, say=lines.put))
        shared = ray.put(Setting(there, options, device, ranks))
        return AsTasks(Setting(finished, options, device, ranks), held, lines, shared)

    def __call__(self, steps: Sequence[Callable[[Setting], R]]) -> list[R]:
        context, cpu, gpu = self.setting.finished.context, self.held["cpu"], self.held["gpu"]
        retries = context.space.options.search.max_failures
        files = context.files
        held: dict[str, Any] = {"num_cpus": cpu, "num_gpus": gpu, "scheduling_strategy": files.placement}
        task: Any = ray.remote(max_retries=retries, **held)(run_step)

        def start(number: int) -> Any:
            return task.remote(self.shared, steps[number], cpu, gpu)

        room = num_holders(self.held, files.where_seen(live_nodes()))
        found = results_in_turn(range(len(steps)), start, room, self.lines, context.say)
        return [found[number] for number in range(len(steps))]


@portable_errors
def run_step(setting: Setting, step: Callable[[Setting], R], cpu: float, gpu: float) -> R:
    """A Ray task: one step, with this node's own decoded images."""
    prepare_worker(cpu, gpu)
    return step(setting)
