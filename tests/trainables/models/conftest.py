"""Backbones of every kind, narrowed where timm's smallest is too large for a quick test, under every head."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import timm
import torch
from pydantic import TypeAdapter

from trainables.models.backbones import PyramidBackbone, build_backbone
from trainables.models.compatibility import FeatureRequest
from trainables.models.heads import build_head, features_read
from trainables.models.segmentor import Segmentor
from trainables.recipe.recipe import Backbone, Head

NUM_CLASSES = 5
HEAD_CFG: dict[str, dict[str, Any]] = {
    "upernet": {"channels": 32, "aux_channels": 16},
    "knet": {"channels": 32, "aux_channels": 16, "num_stages": 2},
    "segformer": {"channels": 32},
    "setr_naive": {"channels": 32},
    "setr_pup": {"channels": 32},
    "dpt": {"channels": 32},
    "mask_classification": {"channels": 32, "num_queries": 12, "num_layers": 3},
    "eomt": {"channels": 32, "num_queries": 12, "num_blocks": 2},
}
NARROW: dict[str, dict[str, Any]] = {
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


def make_head_cfg(name: str, **fields: Any) -> Head:
    return TypeAdapter(Head).validate_python({"name": name, **HEAD_CFG.get(name, {}), **fields})


@cache
def _backbone(name: str, reads: FeatureRequest) -> PyramidBackbone:
    whole = timm.create_model
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(timm, "create_model", lambda name, **kwargs: whole(name, **{**NARROW.get(name, {}), **kwargs}))
        torch.manual_seed(0)
        return build_backbone(Backbone(name=name, pretrained=False), reads)


@pytest.fixture(scope="session")
def head_cfg() -> Callable[..., Head]:
    """(name, fields) -> a head's section, narrow."""
    return make_head_cfg


@pytest.fixture(scope="session")
def small_model() -> Callable[..., Segmentor]:
    """(backbone, head, num_classes) -> a narrow segmentor with a new head; backbones are built once."""

    def build(backbone: str, head: str, num_classes: int = NUM_CLASSES, **fields: Any) -> Segmentor:
        cfg = make_head_cfg(head, **fields)
        body = _backbone(backbone, features_read(cfg))
        body.zero_grad(set_to_none=True)
        torch.manual_seed(1)
        return Segmentor(body, build_head(cfg, body.channels, body.strides, num_classes), num_classes)

    return build
