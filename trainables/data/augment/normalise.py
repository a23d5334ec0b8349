"""Normalises images on their device: they travel as bytes."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor


def normalise(image: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """(B,3,H,W) uint8 -> float32, as the backbone was trained to see it. mean, std (3,) are for RGB in [0, 1]."""
    shift, scale = _on_device(tuple(mean), tuple(std), image.device)
    return image.float().sub_(shift).div_(scale)


@lru_cache(maxsize=64)
def _on_device(mean: tuple[float, ...], std: tuple[float, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """(1,3,1,1) each, made once: a copy to a GPU per step would wait for its queue."""
    shift, scale = (255 * torch.tensor(v, dtype=torch.float32, device=device).view(1, 3, 1, 1) for v in (mean, std))
    return shift, scale
