"""Runs the batches of a prediction in a Ray cluster, by Ray Data: its actors hold the networks, one CPU or GPU each.

Paths travel, and no pixel: an actor reads images, and writes predictions whole or not at all, where it runs. So bundle,
images and output folder must be the same on every node, which is checked before the first batch. The driver plans the
batches, holds the folder's lock and joins the file of a format that has one; restarting is as on one machine.
"""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import ray
import typer
from numpy.typing import NDArray
from ray.util.annotations import RayDeprecationWarning

from analysis.bundle.manifest import MANIFEST
from analysis.prediction.batches import Batch, DecodedBatch
from analysis.prediction.restart import STAMP
from analysis.prediction.run_batches import BatchOutcome, BatchWorker, Task
from search.cluster.connection import connected_until_stopped
from search.cluster.nodes import Node, live_nodes, num_holders, on_each
from trainables.worker_process import prepare_worker

DEVICES = ("auto", "cpu", "cuda")
MAX_BLOCKS = 2000  # of rows that Ray Data hands out one by one; beyond, a block has several batches
MAX_RESTARTS = 3  # of an actor whose process or node was lost; Ray Data itself would start it again for ever
Stats = list[tuple[int, int] | None]  # size and time of each file


@contextmanager
def joined_cluster(address: str) -> Iterator[ClusterBatches]:
    """The cluster at `address`, left at the end. Raises ValueError where none answers."""
    with connected_until_stopped(address, partial(typer.echo, err=True)) as num_gpus:
        yield ClusterBatches(num_gpus)


@dataclass(frozen=True)
class ClusterBatches:
    """A `BatchRunner` in the cluster that this process is connected to."""

    num_gpus: float
    max_restarts: int = MAX_RESTARTS

    def device(self, name: str) -> str:
        if name not in DEVICES:
            raise ValueError(
                f"--device must be {', '.join(DEVICES)} with --address, got {name}: each process has the GPU that Ray "
                "gives it; use cuda"
            )
        if name == "cuda" and self.num_gpus < 1:
            raise ValueError("--device must be one that the cluster has, got cuda, and no GPU; use cpu or auto")
        return name if name != "auto" else "cuda" if self.num_gpus >= 1 else "cpu"

    def run(self, task: Task, batches: Sequence[Batch]) -> Iterator[BatchOutcome]:
        if not batches:  # none could be read
            return
        wanted = {"cpu": 1.0, "gpu": float(task.execution.device == "cuda")}
        nodes = [node for node in live_nodes() if node.holds(wanted)]
        room = num_holders(wanted, nodes)
        if not room:
            raise ValueError(f"a node must have room for one process ({wanted}), got none; start another node")
        check_shared_files([task.out / STAMP, task.bundle.folder / MANIFEST, batches[0].images[0].file], nodes)
        workers = min(task.execution.workers or room, room, len(batches))
        for row in _rows(task, batches, _Pool(workers, wanted["gpu"], self.max_restarts)):
            found = json.loads(row)
            if "error" in found:
                raise ValueError(found["error"])
            yield BatchOutcome(**found)


def check_shared_files(paths: Sequence[Path], nodes: Sequence[Node]) -> None:
    """Raises ValueError, with every node and file, where a node has another file than this machine, or none."""
    here = stats_of(paths)
    there = on_each(nodes, stats_of, list(paths))
    wrong = [
        f"  {node.address}: {path}"
        for node, found in there.items()
        for path, mine, its in zip(paths, here, found, strict=True)
        if its != mine
    ]
    if wrong:
        raise ValueError(
            "with --address every node must see the bundle, the images and --out at the same place, got other files or "
            "none:\n" + "\n".join(wrong) + "\nput them on storage that all nodes share"
        )


def stats_of(paths: Sequence[Path]) -> Stats:
    """Of each file its size and when it was written (ns); None where it cannot be read."""
    found: Stats = []
    for path in paths:
        try:
            with path.open("rb"):
                found.append((path.stat().st_size, path.stat().st_mtime_ns))
        except OSError:
            found.append(None)
    return found


class BatchActor:
    """A process of the cluster: loads the networks at its first batch, and keeps them."""

    def __init__(self, work: Any, gpus: float) -> None:
        self._work, self._gpus = work, gpus  # a reference to the task and all its batches
        self._worker: BatchWorker | None = None
        self._batches: Sequence[Batch] = ()

    def __call__(self, rows: Mapping[str, NDArray[np.int64]]) -> dict[str, list[str]]:
        """{"number": (1,)} -> {"outcome": [JSON of a `BatchOutcome`, or of an error that the user can mend]}."""
        [number] = rows["number"].tolist()
        try:
            if self._worker is None:  # here rather than in `__init__`, whose errors would restart the actor
                self._worker = self._loaded()
            outcome = asdict(self._worker.work(DecodedBatch.read(self._batches[number])))
        except ValueError as error:
            outcome = {"error": str(error)}
        return {"outcome": [json.dumps(outcome)]}

    def _loaded(self) -> BatchWorker:
        import torch  # noqa: F401  # first, so that the next line sets its threads

        prepare_worker(1, self._gpus)
        task, self._batches = ray.get(self._work)
        return BatchWorker(task)


@dataclass(frozen=True)
class _Pool:
    """The actors of a prediction: how many, and of each the GPUs that it holds and how often it is started again."""

    workers: int
    gpus: float
    max_restarts: int


def _rows(task: Task, batches: Sequence[Batch], pool: _Pool) -> Iterator[str]:
    """What the actors return, in the order of the batches. Raises ValueError where one is lost too often."""
    import ray.data

    logging.getLogger("ray.data").setLevel(logging.WARNING)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.execution_options.preserve_order = True
    numbers = [{"number": number} for number in range(len(batches))]
    ordered = ray.data.from_items(numbers, override_num_blocks=min(len(batches), MAX_BLOCKS))
    with warnings.catch_warnings():  # Ray 2.60 warns of limits, of which it has no other parameter
        warnings.simplefilter("ignore", RayDeprecationWarning)
        rows = ordered.map_batches(
            BatchActor,
            batch_size=1,
            fn_constructor_args=(ray.put((task, list(batches))), pool.gpus),
            compute=ray.data.ActorPoolStrategy(size=pool.workers),
            num_cpus=1,
            num_gpus=pool.gpus,
            max_restarts=pool.max_restarts,
            max_task_retries=pool.max_restarts,
        )
    try:
        for row in rows.iter_rows():
            yield row["outcome"]
    except ray.exceptions.RayActorError as error:
        raise ValueError(
            f"every process must live until the end, and one was lost {pool.max_restarts + 1} times, as happens "
            f"where memory is short ({(str(error).splitlines() or [''])[0]}); what was finished is kept: go on with "
            "fewer --workers or a smaller --batch-size"
        ) from error
