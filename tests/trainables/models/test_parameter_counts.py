"""Parameter counts, on the meta device, against mmsegmentation 1.2.2's own builds (millions)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pydantic import TypeAdapter
from torch import nn

from trainables.models.segmentor import Segmentor, build_segmentor
from trainables.recipe.recipe import Backbone, Head, Recipe

SWIN_T, SWIN_L = "swin_tiny_patch4_window7_224", "swin_large_patch4_window7_224"
VIT_L, BEIT_L = "vit_large_patch16_384", "beit_large_patch16_512"
# Theirs are built for 640 or 768 px: their position tables are larger than timm's at 384 and 512, by up to 0.6%.
COUNTS: list[tuple[str, dict[str, Any], int, tuple[float, ...]]] = [  # backbone, head, auxiliary, pyramid
    ("convnext_tiny", {"name": "upernet"}, 150, (27.82, 31.50, 0.92, 0.0)),
    ("convnext_base", {"name": "upernet"}, 150, (87.57, 33.32, 1.22, 0.0)),
    ("convnext_large", {"name": "upernet"}, 150, (196.23, 36.95, 1.81, 0.0)),
    ("convnext_xlarge", {"name": "upernet"}, 150, (348.15, 40.59, 2.40, 0.0)),
    (SWIN_T, {"name": "upernet"}, 150, (27.52, 31.50, 0.92, 0.0)),
    (SWIN_L, {"name": "upernet"}, 150, (195.20, 36.95, 1.81, 0.0)),
    ("twins_svt_large", {"name": "upernet"}, 150, (98.25, 33.32, 1.22, 0.0)),
    (BEIT_L, {"name": "upernet", "channels": 1024}, 150, (305.52, 120.76, 2.40, 12.59)),
    (SWIN_T, {"name": "knet"}, 150, (27.52, 44.71, 0.92, 0.0)),
    (SWIN_L, {"name": "knet"}, 150, (195.00, 50.17, 1.81, 0.0)),
    (VIT_L, {"name": "segmenter"}, 150, (304.74, 28.50, 0.0, 0.0)),
    (VIT_L, {"name": "setr_naive"}, 19, (305.46, 0.27, 0.81, 0.0)),
    (VIT_L, {"name": "setr_pup"}, 19, (305.46, 4.14, 8.87, 0.0)),
    ("mit_b5", {"name": "segformer"}, 150, (81.44, 0.57, 0.0, 0.0)),
    ("mit_b0", {"name": "segformer"}, 150, (3.32, 0.43, 0.0, 0.0)),
]


@pytest.mark.parametrize(("backbone", "head", "num_classes", "millions"), COUNTS)
def test_parts_have_as_many_parameters_as_mmsegmentations(
    backbone: str, head: dict[str, Any], num_classes: int, millions: tuple[float, ...]
) -> None:
    cfg: Head = TypeAdapter(Head).validate_python(head)
    with torch.device("meta"):
        model = build_segmentor(Recipe(backbone=Backbone(name=backbone), head=cfg), num_classes)
    aux, pyramid = sum(count(part) for part in auxiliaries(model)), count(model.backbone.pyramid)
    parts = (count(model.backbone) - pyramid, count(model.head) - aux, aux, pyramid)
    # The tables give two decimals, which is all there is of the smallest parts: 1% or half a digit, whichever is more.
    for found, expected in zip(parts, millions, strict=True):
        assert found == pytest.approx(expected, rel=0.01, abs=0.0055)
    assert sum(parts) == pytest.approx(sum(millions), rel=0.01)


def auxiliaries(model: Segmentor) -> list[nn.Module]:
    return [part for name, part in model.head.named_modules() if name.split(".")[-1] in ("aux_head", "aux_decoders")]


def count(module: nn.Module) -> float:
    return sum(parameter.numel() for parameter in module.parameters()) / 1e6
