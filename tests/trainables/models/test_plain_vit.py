"""plain: transformers of one stride, as a pyramid and as they are."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional

from trainables.models.backbones import build_backbone
from trainables.models.compatibility import FeatureRequest
from trainables.models.plain_vit import PlainFeatures
from trainables.recipe.recipe import Backbone

FOUR = FeatureRequest(depths=(0.25, 0.5, 0.75, 1.0))


def scratch(name: str, **fields: float) -> Backbone:
    return Backbone(name=name, pretrained=False, **fields)


@pytest.mark.parametrize(
    ("name", "stride"),
    [
        ("vit_tiny_patch16_224", 16),
        ("vit_small_patch8_224", 8),
        ("vit_small_patch32_224", 32),
        ("vit_small_patch14_dinov2", 16),  # padded and resampled
        ("vit_small_patch14_reg4_dinov2", 16),
        ("vit_base_patch14_reg1_tipsv2", 16),
        ("deit_tiny_distilled_patch16_224", 16),  # two class tokens
        ("deit3_small_patch16_224", 16),
        ("beit_base_patch16_224", 16),
        ("beitv2_base_patch16_224", 16),
        ("eva02_tiny_patch14_224", 16),
        ("vit_tiny_patch16_dinov3_qkvb", 16),  # registers, rotary positions
        ("xcit_nano_12_p16_224", 16),
        ("convmixer_768_32", 8),  # patch 7
    ],
)
def test_features_lie_at_one_stride_or_at_four(name: str, stride: int) -> None:
    with torch.device("meta"):
        plain, pyramid = (build_backbone(scratch(name), reads).eval() for reads in (FOUR, FeatureRequest()))
        image = torch.empty(2, 3, 96, 160)
        shapes = [[tuple(feature.shape) for feature in backbone(image)] for backbone in (plain, pyramid)]
    width = plain.channels[0]
    assert shapes[0] == [(2, width, 96 // stride, 160 // stride)] * 4
    assert shapes[1] == [(2, width, 96 // s, 160 // s) for s in (4, 8, 16, 32)]
    assert plain.strides == [stride] * 4
    assert pyramid.strides == [4, 8, 16, 32]


def test_features_are_those_of_timm() -> None:
    backbone = build_backbone(scratch("test_vit"), FOUR).eval()
    whole = timm.create_model("test_vit", dynamic_img_size=True).eval()
    whole.load_state_dict(backbone.body.model.state_dict(), strict=False)
    image = torch.randn(1, 3, 96, 128)
    blocks = [1, 2, 3, 5]  # a quarter, a half, three quarters and all of six
    for own, theirs in zip(
        backbone.body(image), whole.forward_intermediates(image, blocks, intermediates_only=True), strict=True
    ):
        torch.testing.assert_close(own, theirs)


@pytest.mark.parametrize(
    ("name", "blocks"), [("vit_tiny_patch16_224", [3, 5, 7, 11]), ("vit_large_patch16_224", [7, 11, 15, 23])]
)
def test_the_pyramid_reads_the_blocks_that_beit_reads(name: str, blocks: list[int]) -> None:
    with torch.device("meta"):
        assert build_backbone(scratch(name)).body._blocks == blocks


def test_a_shallow_model_gives_a_block_twice() -> None:
    backbone = build_backbone(scratch("test_vit"), FeatureRequest(depths=(0.1, 0.2, 0.5, 1.0))).eval()
    first, second, *_ = backbone.body(torch.randn(1, 3, 64, 64))
    assert first.equal(second)


class Averages(nn.Module):
    """Each patch's mean colour, in place of a transformer."""

    def forward_intermediates(self, image: Tensor, **options: Any) -> list[Tensor]:
        return [functional.avg_pool2d(image, 14)]


def test_patches_of_14_px_are_resampled_where_the_image_is() -> None:
    columns = torch.arange(160.0).expand(1, 1, 96, 160)
    [feature] = PlainFeatures(Averages(), [0], 14, 16)(columns)
    assert feature.shape == (1, 1, 6, 10)
    centres = (torch.arange(10) + 0.5) * 16 - 0.5
    torch.testing.assert_close(feature[0, 0, 0, :-1], centres[:-1])  # the last reaches into the padding


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "beit_base_patch16_224"])
def test_layers_are_the_blocks_and_new_parts_learn_as_the_head(name: str) -> None:
    with torch.device("meta"):
        backbone = build_backbone(scratch(name))
    layer_of = backbone.layer_of
    assert layer_of["body.model.patch_embed.proj.weight"] == layer_of["body.model.cls_token"] == 0
    assert [layer_of[f"body.model.blocks.{i}.attn.qkv.weight"] for i in range(12)] == list(range(1, 13))
    assert layer_of["norms.0.weight"] == 12
    new = {name for name, _ in backbone.named_parameters()} - set(layer_of)
    assert new
    assert all(name.startswith("pyramid.") for name in new)


@pytest.mark.parametrize("name", ["vit_tiny_patch16_dinov3_qkvb", "vit_base_patch14_reg1_tipsv2"])
def test_registers_are_at_the_bottom_and_not_decayed(name: str) -> None:
    with torch.device("meta"):
        backbone = build_backbone(scratch(name))
    assert backbone.layer_of["body.model.reg_token"] == backbone.layer_of["body.model.cls_token"] == 0
    assert backbone.layer_of["body.model.blocks.11.mlp.fc2.weight"] == 12
    assert {"body.model.reg_token", "body.model.cls_token"} <= backbone.no_weight_decay


def test_positions_are_not_decayed() -> None:
    with torch.device("meta"):
        vit, beit = (build_backbone(scratch(name)) for name in ("vit_tiny_patch16_224", "beit_base_patch16_224"))
    assert {"body.model.pos_embed", "body.model.cls_token"} <= vit.no_weight_decay
    assert "body.model.blocks.11.attn.relative_position_bias_table" in beit.no_weight_decay


DROPPING = ("vit_tiny_patch16_224", "deit_tiny_distilled_patch16_224", "beit_base_patch16_224")
DROPPING += ("vit_tiny_patch16_dinov3_qkvb", "vit_base_patch14_reg1_tipsv2", "eva02_tiny_patch14_224")


@pytest.mark.parametrize("name", DROPPING)
def test_drop_path_is_taken(name: str) -> None:
    with torch.device("meta"):
        backbone = build_backbone(scratch(name, drop_path=0.2))
    rates = [getattr(module, "drop_prob", 0.0) for module in backbone.modules()]
    assert max(rates) == pytest.approx(0.2)


def test_levels_that_nobody_reads_have_no_parameters() -> None:
    with torch.device("meta"):
        backbone = build_backbone(scratch("test_vit"), FeatureRequest(levels=(3,)))
    assert not list(backbone.pyramid.parameters())
    assert {name for name, _ in backbone.norms.named_parameters()} == {"3.weight", "3.bias"}
