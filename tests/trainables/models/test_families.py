"""The first users' table, dino.yaml and edge.yaml, built dry: every model at full size, on the meta device."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pydantic import TypeAdapter

from trainables.models.compatibility import check_pair
from trainables.models.segmentor import build_segmentor
from trainables.recipe.recipe import Backbone, Head, Recipe

TABLE: list[tuple[str, dict[str, Any]]] = [
    ("convnext_xlarge.fb_in22k_ft_in1k", {"name": "upernet"}),
    ("convnext_xlarge.fb_in22k_ft_in1k", {"name": "knet"}),
    ("swin_large_patch4_window7_224.ms_in22k_ft_in1k", {"name": "knet"}),
    ("beit_large_patch16_224.in22k_ft_in22k_in1k", {"name": "upernet", "channels": 1024}),
    ("twins_svt_large.in1k", {"name": "upernet"}),
    ("vit_base_patch16_224.augreg_in21k", {"name": "upernet"}),
    ("vit_large_patch16_224.augreg_in21k", {"name": "segmenter"}),
    ("vit_large_patch16_224.augreg_in21k", {"name": "setr_naive"}),
    ("vit_large_patch16_224.augreg_in21k", {"name": "setr_pup"}),
    ("vit_large_patch16_224.augreg_in21k", {"name": "dpt"}),
    ("eva02_large_patch14_448.mim_m38m_ft_in22k_in1k", {"name": "upernet"}),
    ("vit_large_patch16_dinov3.lvd1689m", {"name": "segmenter"}),
    ("mit_b5", {"name": "segformer"}),
    # dino.yaml
    ("vit_large_patch16_dinov3.lvd1689m", {"name": "mask_classification"}),
    ("vit_base_patch14_reg4_dinov2.lvd142m", {"name": "linear"}),
    ("vit_base_patch14_reg1_tipsv2.webli", {"name": "dpt"}),
    ("eva02_base_patch14_224.mim_in22k", {"name": "upernet", "channels": 768}),
    ("convnext_large.dinov3_lvd1689m", {"name": "mask_classification"}),
    # edge.yaml
    ("mobilenetv4_conv_medium.e500_r256_in1k", {"name": "segformer"}),
    ("efficientvit_b2.r288_in1k", {"name": "mask_classification"}),
    ("convnext_pico.d1_in1k", {"name": "linear"}),
]


@pytest.mark.parametrize(("backbone", "head"), TABLE)
def test_a_model_of_the_table_builds_and_runs_dry(backbone: str, head: dict[str, Any]) -> None:
    cfg: Head = TypeAdapter(Head).validate_python(head)
    check_pair(backbone, cfg.name)
    drop_path = 0.0 if backbone.startswith("efficientvit") else 0.1  # timm's has none
    with torch.device("meta"):
        model = build_segmentor(Recipe(backbone=Backbone(name=backbone, drop_path=drop_path), head=cfg), 11).eval()
        for size in ((512, 512), (384, 640)):
            model.backbone.check_size(*size)
            logits = model(torch.empty(1, 3, *size))
            assert logits.shape == (1, 11, *(side // model.stride for side in size))
