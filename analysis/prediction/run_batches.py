"""Runs the batches of a prediction, here or in several processes, each with the networks in its own memory.

`LocalBatches` runs them on this machine; `search.cluster.predict_batches` in a cluster.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing import parent_process
from pathlib import Path
from typing import Protocol

from analysis.bundle.manifest import Bundle
from analysis.prediction.batches import Batch, DecodedBatch
from analysis.prediction.job import Execution, Format
from analysis.prediction.writers import WRITERS, Labelling, writable
from trainables.worker_process import is_out_of_memory, prepare_worker


@dataclass(frozen=True)
class Task:
    """What every process does with its batches."""

    bundle: Bundle
    out: Path
    output_format: Format
    labelling: Labelling
    execution: Execution


@dataclass
class BatchOutcome:
    """What became of a batch."""

    predicted: list[str]
    unreadable: list[str]
    warnings: dict[str, list[str]] = field(default_factory=dict)  # rule -> names


class BatchRunner(Protocol):
    """Where the batches of a prediction are run."""

    def device(self, name: str) -> str:
        """The torch device that `--device NAME` stands for there. Raises ValueError where there is none such."""
        ...

    def run(self, task: Task, batches: Sequence[Batch]) -> Iterator[BatchOutcome]:
        """Predict and write all batches; yields in their order.

        Raises ValueError where `out` is full, a batch does not fit the memory, or a process was lost.
        """
        ...


class BatchWorker:
    """The networks of this process, and the writer of its predictions."""

    def __init__(self, task: Task) -> None:
        from analysis.bundle.predictor import Predictor
        from trainables.logits.view import Tile

        self.task = task
        how = task.execution
        tile = None if how.tile is None else Tile(*how.tile)
        self.predictor = Predictor(
            task.bundle,
            device=how.device,
            batch_size=how.batch_size,
            half=how.half,
            compiled=how.compiled,
            tile=tile,
        )
        self.writer = WRITERS[task.output_format](task.out, task.labelling)

    def work(self, batch: DecodedBatch) -> BatchOutcome:
        """Predict the images of a batch and write them. Raises ValueError as `BatchRunner.run` does."""
        outcome = BatchOutcome(list(batch.images), batch.problems)
        for name, image in batch.images.items():
            for rule in image.warnings:
                outcome.warnings.setdefault(rule, []).append(name)
        with writable(self.task.out), _fits_memory(self.task.execution):
            self.writer.write_all(self.predictor, {name: image.pixels for name, image in batch.images.items()})
        return outcome


class LocalBatches:
    """On this machine: in this process, or in `--workers` others."""

    def device(self, name: str) -> str:
        from analysis.bundle.predictor import resolve_device

        return resolve_device(name)

    def run(self, task: Task, batches: Sequence[Batch]) -> Iterator[BatchOutcome]:
        workers = min(task.execution.workers or 1, len(batches))
        return _here(task, batches) if workers < 2 else _in_processes(task, batches, workers)


LOCAL = LocalBatches()


def _here(task: Task, batches: Sequence[Batch]) -> Iterator[BatchOutcome]:
    worker = BatchWorker(task)
    with ThreadPoolExecutor(max_workers=1) as pool:
        ahead: Future[DecodedBatch] | None = None
        for batch in batches:  # one is read while another is worked on
            ahead, ready = pool.submit(DecodedBatch.read, batch), ahead
            if ready is not None:
                yield worker.work(ready.result())
        if ahead is not None:
            yield worker.work(ahead.result())


def _in_processes(task: Task, batches: Sequence[Batch], workers: int) -> Iterator[BatchOutcome]:
    pool = ProcessPoolExecutor(
        workers, multiprocessing.get_context("spawn"), initializer=_begin, initargs=(task, batches)
    )
    try:
        yield from pool.map(_work_on, range(len(batches)))
    except BrokenProcessPool as error:
        raise ValueError(
            f"all {workers} processes must live until the end, and one was killed or could not start, as happens where "
            "memory is short; what was finished is kept: go on with fewer --workers"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


@dataclass
class _Share:
    """What a worker process was given, and what it made of it at its first batch."""

    task: Task
    batches: Sequence[Batch]
    worker: BatchWorker | None = None


_SHARE: list[_Share] = []  # of a worker process: one, from `_begin` on


def _begin(task: Task, batches: Sequence[Batch]) -> None:
    """Set up a worker process: one thread, so that equal runs give equal bytes, and an end when the parent ends."""
    prepare_worker(1, 0.0 if task.execution.device == "cpu" else 1.0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _SHARE.append(_Share(task, batches))


def _end_with_parent() -> None:
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _work_on(number: int) -> BatchOutcome:
    [share] = _SHARE
    if share.worker is None:  # here rather than in `_begin`, whose errors the parent would not be told
        import torch

        torch.set_num_threads(1)
        share.worker = BatchWorker(share.task)
    return share.worker.work(DecodedBatch.read(share.batches[number]))


@contextmanager
def _fits_memory(execution: Execution) -> Iterator[None]:
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise ValueError(f"{error}; use a smaller --batch-size, now {execution.batch_size}, and go on") from error
