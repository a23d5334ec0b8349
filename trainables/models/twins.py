"""Twins with activations that are computed again in the backward pass, for which timm's has no switch."""

from __future__ import annotations

from typing import Any

import torch
from timm.models.twins import Block
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from typing_extensions import override


class RecomputedBlock(Block):
    """timm's block, its names and its numbers; of its activations only the input is kept (Chen 2016)."""

    @override
    def forward(self, x: Tensor, size: Any) -> Tensor:
        if torch.is_grad_enabled():
            out: Tensor = checkpoint(super().forward, x, size, use_reentrant=False)
        else:
            out = super().forward(x, size)  # type: ignore[no-untyped-call, unused-ignore]
        return out


def set_grad_checkpointing(body: nn.Module, enable: bool) -> bool:
    """False where the body has no block of a Twins."""
    blocks = [module for module in body.modules() if isinstance(module, Block)]
    for block in blocks:
        block.__class__ = RecomputedBlock if enable else Block  # parameters and their names stay
    return bool(blocks)
