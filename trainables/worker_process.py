"""Threads, environment, devices and memory of a worker process."""

from __future__ import annotations

import gc
import os
import sys

OUT_OF_MEMORY = (  # in a RuntimeError, such as torch's AcceleratorError
    "out of memory",
    "can't allocate memory",
    "status_alloc_failed",  # of cuBLAS and its like
    "device_allocation_failed",  # of cuDNN from version 9 on
    "host_allocation_failed",
)
THREAD_TIMEOUT_S = 60  # Ray waits 2 s for a trial's teardown before it gives the next trial up


def worker_environment(cpus: float) -> dict[str, str]:
    """The environment variables of a worker process, given its trial's share of CPUs."""
    return {
        "TUNE_FUNCTION_THREAD_TIMEOUT_S": str(THREAD_TIMEOUT_S),
        "NO_ALBUMENTATIONS_UPDATE": "1",  # else its import asks the network for a newer version
        "OMP_NUM_THREADS": str(max(1, int(cpus))),
    }


def prepare_worker(cpus: float, gpus: float) -> None:
    """Set this process up for a holder of `cpus` CPUs and `gpus` GPUs, in place of an earlier one's settings.

    Ray hides no GPU from who holds none, so that is done here. Who holds a share of one can allocate that share of its
    memory, and is out of memory beyond it, as if the device ended there.
    """
    os.environ.update(worker_environment(cpus))
    if not gpus:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(max(1, int(cpus)))
    if gpus:
        _allow_memory(min(gpus, 1.0))


def _allow_memory(share: float) -> None:
    """Of the first device: a process that has not used it yet, and shall have all of it, is left as it is."""
    if share == 1.0 and not ("torch" in sys.modules and sys.modules["torch"].cuda.is_initialized()):
        return
    import torch

    if torch.cuda.is_available():  # the run has checked it; a test may have made its GPUs up
        torch.cuda.set_per_process_memory_fraction(share)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the error is an allocation that failed, on the device or the host."""
    names = {kind.__name__ for kind in type(error).__mro__}
    text = str(error).lower()
    said = any(sign in text for sign in OUT_OF_MEMORY)
    return bool(names & {"OutOfMemory", "OutOfMemoryError", "MemoryError"}) or ("RuntimeError" in names and said)


def release_memory() -> None:
    """Frees what the last trial held, so that the reused actor's next one, and others on the device, can have it."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()
