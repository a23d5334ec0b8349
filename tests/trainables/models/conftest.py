"""Backbones of every kind, narrowed where timm's smallest is too large for a quick test, under every head."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from narrow_models import HEADS, narrowed
from pydantic import TypeAdapter

from trainables.models.backbones import PyramidBackbone, build_backbone
from trainables.models.compatibility import FeatureRequest
from trainables.models.heads import build_head, features_read
from trainables.models.segmentor import Segmentor
from trainables.recipe.recipe import Backbone, Head

NUM_CLASSES = 5


def make_head_cfg(name: str, **fields: Any) -> Head:
    return TypeAdapter(Head).validate_python({"name": name, **HEADS.get(name, {}), **fields})


@cache
def _backbone(name: str, reads: FeatureRequest) -> PyramidBackbone:
    with narrowed():
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
