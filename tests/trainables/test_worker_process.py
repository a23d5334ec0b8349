"""The settings of a worker process, and which errors are memory that ran out."""

from __future__ import annotations

import os

import pytest
import torch

from trainables.worker_process import is_out_of_memory, prepare_worker


@pytest.fixture
def fractions(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What is asked of a GPU that this machine does not have; the environment is put back."""
    asked: list[float] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", asked.append)
    monkeypatch.setattr(os, "environ", dict(os.environ, CUDA_VISIBLE_DEVICES="3"))
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)
    return asked


@pytest.mark.parametrize(
    ("gpus", "visible", "asked"), [(0.0, "", []), (0.5, "3", [0.5]), (1.0, "3", []), (2.0, "3", [])]
)
def test_a_holder_sees_what_it_holds(fractions: list[float], gpus: float, visible: str, asked: list[float]) -> None:
    prepare_worker(2, gpus)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == visible
    assert os.environ["OMP_NUM_THREADS"] == "2"
    assert fractions == asked


def test_a_worker_that_held_a_share_gets_the_whole_back(
    fractions: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    prepare_worker(2, 0.5)
    prepare_worker(2, 1.0)
    assert fractions == [0.5, 1.0]


class AcceleratorError(RuntimeError):
    """As torch's own, which cannot be made without a device."""


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), True),
        (AcceleratorError("CUDA error: out of memory"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR"), False),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried 8 bytes"), True),
        (MemoryError(), True),
        (AcceleratorError("CUDA error: an illegal memory access was encountered"), False),
        (KeyError("out of memory"), False),
    ],
)
def test_memory_that_ran_out_is_recognised(error: Exception, expected: bool) -> None:
    assert is_out_of_memory(error) is expected
