"""Threads, environment and memory of a worker process."""

from __future__ import annotations

import gc
import os
import sys

THREAD_TIMEOUT_S = 60  # Ray waits 2 s for a trial's teardown before it gives the next trial up


def worker_environment(cpus: float) -> dict[str, str]:
    """The environment variables of a worker process, given its trial's share of CPUs."""
    return {
        "TUNE_FUNCTION_THREAD_TIMEOUT_S": str(THREAD_TIMEOUT_S),
        "NO_ALBUMENTATIONS_UPDATE": "1",  # else its import asks the network for a newer version
        "OMP_NUM_THREADS": str(max(1, int(cpus))),
    }


def prepare_worker(cpus: float) -> None:
    """Set this process up for a trial with `cpus` CPUs, in place of an earlier trial's settings."""
    os.environ.update(worker_environment(cpus))
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(max(1, int(cpus)))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the error is an allocation that failed, on the device or the host."""
    names = {kind.__name__ for kind in type(error).__mro__}
    text = str(error).lower()
    said = "out of memory" in text or "can't allocate memory" in text
    return bool(names & {"OutOfMemory", "OutOfMemoryError", "MemoryError"}) or ("RuntimeError" in names and said)


def release_memory() -> None:
    """Frees what the failed trial held, so that the reused actor's next trial has the device to itself."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()
