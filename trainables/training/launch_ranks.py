"""One attempt at a trial by several processes, one per device.

The first rank's reports are called in this process; when it returns or raises, no rank is left. Ranks are spawned
here, not placed by Ray: a trial holds all of its devices in one bundle, so on one machine. What a rank raises is
raised here once, and a rank that is killed is reported with its exit status.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch

from trainables.ranks import Ranks, joined
from trainables.training.attempt import DoesNotFit, OutOfMemory, Report, attempt
from trainables.training.epoch import Diverged
from trainables.training.trial import Trial

_GRACE_S = 10.0  # a rank that was asked to end is killed after that
_BEREAVED_S = 1.0  # a rank may learn of another's death before this process does


class RankFailed(RuntimeError):
    """A rank ended without reporting: it was killed, or crashed outside of Python."""


def attempt_on_ranks(
    trial: Trial, report: Report, *, accumulate: int, resume_from: Path | None, num_ranks: int
) -> dict[str, Any]:
    """`attempt` by `num_ranks` processes on the devices "cuda:0", "cuda:1", ..., or all on the CPU.

    A rank draws what one process would draw for its share of each batch, so the loss curve is that of one process but
    for rounding, dropout masks, and losses over classes (dice, Lovász), which are means over the ranks' parts.
    Raises RankFailed, and whatever a rank raises.
    """
    context = multiprocessing.get_context("spawn")  # CUDA does not survive a fork
    num_threads = max(1, torch.get_num_threads() // num_ranks)
    processes: list[BaseProcess] = []
    talks: list[Connection] = []
    with tempfile.TemporaryDirectory(prefix="segsearch-ranks-") as folder:
        try:
            for rank in range(num_ranks):
                mine, theirs = context.Pipe()
                device = f"cuda:{rank}" if trial.device.startswith("cuda") else trial.device
                process = context.Process(
                    target=_work,
                    args=(replace(trial, device=device), Ranks(rank, num_ranks), theirs, Path(folder) / "meeting"),
                    kwargs={"accumulate": accumulate, "resume_from": resume_from, "num_threads": num_threads},
                    name=f"segsearch-rank-{rank}",
                )
                process.start()
                theirs.close()  # so that a dead rank's end of the pipe is the last one
                processes.append(process)
                talks.append(mine)
            return _listen(processes, talks, report)
        finally:
            _end(processes)
            for talk in talks:
                talk.close()


def _listen(processes: Sequence[BaseProcess], talks: Sequence[Connection], report: Report) -> dict[str, Any]:
    """Passes reports on until every rank is done; the first rank's metrics."""
    metrics: dict[str, Any] = {}
    waiting = dict(enumerate(talks))
    while waiting:
        ready = wait(list(waiting.values()))
        for rank in [rank for rank, talk in waiting.items() if talk in ready]:
            try:
                kind, value = waiting[rank].recv()
            except EOFError:
                raise _death(processes, rank) from None
            if kind == "epoch":
                report(value)
                waiting[rank].send("go on")
            elif kind == "done":
                metrics = value if rank == 0 else metrics
                del waiting[rank]
            else:
                if rank and isinstance(value, Diverged):
                    _hear_out(talks[0], report)
                raise _cause(processes, rank, value)
    return metrics


def _hear_out(first: Connection, report: Report) -> None:
    """All ranks diverge at once, but only the first one reports it, before it raises: another's message may be here
    earlier."""
    try:
        while first.poll(_GRACE_S):
            kind, value = first.recv()
            if kind != "epoch":
                return
            report(value)
            first.send("go on")
    except EOFError:
        return  # it died; that the others diverged is still so


def _cause(processes: Sequence[BaseProcess], rank: int, error: BaseException) -> BaseException:
    """The error that `rank` raised; or the death of another rank, which made this one lose the connection."""
    lost_connection = isinstance(error, RuntimeError) and not isinstance(error, DoesNotFit | OutOfMemory | Diverged)
    for other in range(len(processes) if lost_connection else 0):
        if other != rank:
            processes[other].join(_BEREAVED_S)
        if processes[other].exitcode not in (None, 0):
            return _death(processes, other)
    return error


def _death(processes: Sequence[BaseProcess], rank: int) -> RankFailed:
    processes[rank].join(_GRACE_S)
    status = processes[rank].exitcode
    killed = " (killed: the machine may have run out of memory)" if status == -9 else ""
    return RankFailed(f"rank {rank} of {len(processes)} ended with exit status {status}{killed}, without an error")


def _end(processes: Sequence[BaseProcess]) -> None:
    for process in processes:
        process.terminate()
    for process in processes:
        process.join(_GRACE_S)
        if process.is_alive():
            process.kill()
            process.join()
        process.close()


def _work(
    trial: Trial,
    ranks: Ranks,
    talk: Connection,
    meeting: Path,
    *,
    accumulate: int,
    resume_from: Path | None,
    num_threads: int,
) -> None:
    """Run one rank. It sends ("epoch", report), ("done", metrics) or ("error", exception)."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(num_threads)

    def report(done: Any) -> None:
        talk.send(("epoch", done))
        talk.recv()

    try:
        with joined(ranks, meeting, trial.device):
            metrics = attempt(
                trial, report, accumulate=accumulate, resume_from=resume_from, clock=time.perf_counter, ranks=ranks
            )
            talk.send(("done", metrics))
    except Exception as error:
        talk.send(("error", _sendable(error)))
        # what it would close now the others would report as lost connections; the parent ends all ranks
        threading.Event().wait()


def _sendable(error: Exception) -> Exception:
    """`error` without what hangs on it, or its text where it cannot be rebuilt in another process."""
    plain = error.with_traceback(None)
    plain.__cause__ = plain.__context__ = None
    try:
        pickle.loads(pickle.dumps(plain))  # noqa: S301  (made one line above)
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return plain


def _end_with_parent() -> None:
    """End this rank when its parent is gone. Ranks cannot be daemons, since their data loaders have children."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
