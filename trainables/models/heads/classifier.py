"""The last step of a head, in float32 where the model predicts.

Under bfloat16 logits have 8 bits: neighbours tie, ties go to the lowest class, and a bundle on a CPU differs from a
verdict on a GPU. In training the loss reads gradients of the low precision, which autocast chooses.
"""

from __future__ import annotations

import contextlib

import torch
from torch import Tensor, nn


class Classifier(nn.Conv2d):
    """(B,C,h,w) -> logits (B,K,h,w)."""

    def forward(self, input: Tensor) -> Tensor:
        with scoring(self, input.device.type):
            return super().forward(as_scored(self, input))


def scoring(module: nn.Module, device_type: str) -> contextlib.AbstractContextManager[None]:
    """Autocast off where `module` predicts; as it is where it trains."""
    return contextlib.nullcontext() if module.training else full_precision(device_type)


def as_scored(module: nn.Module, x: Tensor) -> Tensor:
    """`x` in the precision of the module's weights where it predicts; as it is where it trains."""
    return x if module.training else x.to(next(module.parameters()).dtype)


def full_precision(device_type: str) -> contextlib.AbstractContextManager[None]:
    """Autocast off; the meta device has none to switch off."""
    if torch.amp.is_autocast_available(device_type):
        return torch.autocast(device_type, enabled=False)
    return contextlib.nullcontext()
