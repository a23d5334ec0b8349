"""Backbones of every kind, narrowed where timm's smallest is too large for a quick test, and narrow heads."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
import timm

HEADS: dict[str, dict[str, Any]] = {
    "upernet": {"channels": 32, "aux_channels": 16},
    "knet": {"channels": 32, "aux_channels": 16, "num_stages": 2},
    "segformer": {"channels": 32},
    "setr_naive": {"channels": 32},
    "setr_pup": {"channels": 32},
    "dpt": {"channels": 32},
    "mask_classification": {"channels": 32, "num_queries": 12, "num_layers": 3},
    "eomt": {"channels": 32, "num_queries": 12, "num_blocks": 2},
}
BACKBONES: dict[str, dict[str, Any]] = {
    "swin_tiny_patch4_window7_224": {"embed_dim": 24, "depths": (2, 2, 2, 2), "num_heads": (1, 2, 4, 8)},
    "twins_svt_small": {"embed_dims": (16, 32, 64, 128), "num_heads": (1, 2, 4, 8), "depths": (1, 1, 2, 1)},
    "vit_tiny_patch16_224": {"embed_dim": 64, "depth": 4, "num_heads": 2},
    "beit_base_patch16_224": {"embed_dim": 64, "depth": 4, "num_heads": 2},
    "vit_tiny_patch16_dinov3_qkvb": {"embed_dim": 64, "depth": 4, "num_heads": 2},
    "vit_small_patch14_reg4_dinov2": {"embed_dim": 64, "depth": 4, "num_heads": 2},
    "vit_base_patch14_reg1_tipsv2": {"embed_dim": 64, "depth": 4, "num_heads": 2},
    "eva02_tiny_patch14_224": {"embed_dim": 64, "depth": 4, "num_heads": 2},
    "convnext_tiny.dinov3_lvd1689m": {"depths": (1, 1, 2, 1), "dims": (16, 32, 64, 128)},
    "convnext_pico": {"depths": (1, 1, 2, 1), "dims": (16, 32, 64, 128)},
}


@contextlib.contextmanager
def narrowed() -> Iterator[None]:
    """timm makes BACKBONES narrow until the end of the block."""
    whole = timm.create_model
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(timm, "create_model", lambda name, **kwargs: whole(name, **(BACKBONES.get(name, {}) | kwargs)))
        yield
