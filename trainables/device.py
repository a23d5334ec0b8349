"""How a network is computed on a device: its precision, and the layout of its tensors in memory.

`amp` says it all. 'bf16' and 'fp16' compute what is fit for it in 16 bits (torch.autocast), 'auto' in bf16 on a GPU
that has it. What is left, and everything under 'off', is float32 as IEEE 754 has it: torch's own default would let
cuDNN's convolutions, and no other product, round their inputs to the 10 bits of TensorFloat-32. 'tf32' lets all
products do so: float32 in range, several times quicker on GPUs from Ampere on, and the same as 'off' elsewhere.

cuDNN chooses its algorithms by its own rules, not by timing them first (`cudnn.benchmark`): other algorithms sum in
another order, so the clock would have a say in the result.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, TypeVar

import torch
from torch import nn

from trainables.recipe.recipe import Amp

M = TypeVar("M", bound=nn.Module)


def autocast_dtype(amp: Amp, device: str) -> torch.dtype | None:
    """The 16-bit type that `amp` asks for on this device, or None; 'auto' is bf16 on a GPU that computes in it."""
    if amp == "auto":
        native = device.startswith("cuda") and torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if native else None
    return {"bf16": torch.bfloat16, "fp16": torch.float16}.get(amp)


@contextlib.contextmanager
def float32_products(amp: Amp) -> Iterator[None]:
    """How float32 products are computed on GPUs, in this process, until the end of the block; backward passes too."""
    cudnn: Any = torch.backends.cudnn
    matmul, conv = torch.backends.cuda.matmul, cudnn.conv
    before = matmul.fp32_precision, conv.fp32_precision, cudnn.benchmark
    matmul.fp32_precision = conv.fp32_precision = "tf32" if amp == "tf32" else "ieee"
    cudnn.benchmark = False
    try:
        yield
    finally:
        matmul.fp32_precision, conv.fp32_precision, cudnn.benchmark = before


def memory_layout(device: str | torch.device) -> torch.memory_format:
    """Of images and filters: tensor cores read channels-last; a CPU gains by it in some layers only."""
    return torch.channels_last if torch.device(device).type == "cuda" else torch.contiguous_format


def placed(model: M, device: str) -> M:
    """`model` on the device, its filters in the layout that is read there."""
    there: M = model.to(device=device, memory_format=memory_layout(device))  # type: ignore[call-overload, unused-ignore]
    return there
