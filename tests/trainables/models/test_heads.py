"""One contract for every head, over backbones of four kinds."""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path

import pytest
import torch
from pydantic import TypeAdapter
from safetensors.torch import load_file, save_file
from torch import nn

from trainables.models.backbones import PyramidBackbone, build_backbone
from trainables.models.heads import HEADS, build_head, levels_read
from trainables.models.heads.conv_norm import PooledBatchNorm2d
from trainables.models.heads.smp_decoders import _AtLeast8
from trainables.models.segmentor import Segmentor, build_segmentor
from trainables.recipe import Backbone, Head, Recipe, SegFormerHead, UPerNetHead

NUM_CLASSES = 5
SWIN = "swin_tiny_patch4_window7_224"
SMALL = {"upernet": {"channels": 32, "aux_channels": 16}, "segformer": {"channels": 32}}
STRIDES = [4, 8, 16, 32]


def head_cfg(name: str) -> Head:
    return TypeAdapter(Head).validate_python({"name": name, **SMALL.get(name, {})})


@cache
def backbone_of(name: str, levels: tuple[int, ...]) -> PyramidBackbone:
    return build_backbone(Backbone(name=name, pretrained=False), levels=levels)


def model_of(backbone: str, head: str) -> Segmentor:
    cfg = head_cfg(head)
    body = backbone_of(backbone, tuple(levels_read(cfg)))
    body.zero_grad(set_to_none=True)
    return Segmentor(body, build_head(cfg, body.channels, body.strides, NUM_CLASSES), NUM_CLASSES)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("size", [(64, 64), (96, 64), (67, 93)])
def test_logits_lie_at_the_heads_own_stride(head: str, size: tuple[int, int]) -> None:
    model = model_of("test_convnext", head).eval()
    with torch.no_grad():
        logits = model(torch.randn(1, 3, *size))
    assert logits.shape == (1, NUM_CLASSES, *(math.ceil(side / model.stride) for side in size))
    assert logits.isfinite().all()


@pytest.mark.parametrize("head", ["upernet", "segformer", "unet"])
def test_convnext_atto_carries_the_usual_heads(head: str) -> None:
    logits = model_of("convnext_atto", head).eval()(torch.randn(1, 3, 67, 93))
    assert logits.shape == (1, NUM_CLASSES, 17, 24)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("backbone", ["test_convnext", "resnet18", SWIN])
def test_gradients_reach_every_parameter(head: str, backbone: str) -> None:
    model = model_of(backbone, head).train()
    outputs = model.forward_all(torch.randn(2, 3, 67, 93))
    assert outputs.logits.shape[2:] == (math.ceil(67 / model.stride), math.ceil(93 / model.stride))
    loss = outputs.logits.square().mean() + sum(weight * aux.square().mean() for aux, weight in outputs.aux)
    loss.backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []


@pytest.mark.parametrize("head", HEADS)
def test_one_small_image_can_be_trained_on(head: str) -> None:
    outputs = model_of("test_convnext", head).train().forward_all(torch.randn(1, 3, 64, 64))
    assert outputs.logits.isfinite().all()


@pytest.mark.parametrize("head", HEADS)
def test_state_survives_safetensors(head: str, tmp_path: Path) -> None:
    recipe = Recipe(backbone=Backbone(name="test_convnext", pretrained=False), head=head_cfg(head))
    first, second = (build_segmentor(recipe, NUM_CLASSES).eval() for _ in range(2))
    save_file(first.state_dict(), tmp_path / "w.safetensors")
    second.load_state_dict(load_file(tmp_path / "w.safetensors"))
    image = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(second(image), first(image), rtol=0.0, atol=0.0)


@pytest.mark.parametrize(
    ("backbone", "millions"),  # backbone, head, auxiliary, as mmsegmentation 1.2.2 builds them for 150 classes
    [
        ("convnext_tiny", (27.82, 31.50, 0.92)),
        ("convnext_base", (87.57, 33.32, 1.22)),
        ("convnext_large", (196.23, 36.95, 1.81)),
        ("convnext_xlarge", (348.15, 40.59, 2.40)),
        (SWIN, (27.52, 31.50, 0.92)),
        ("twins_svt_large", (98.25, 33.32, 1.22)),
    ],
)
def test_upernet_has_as_many_parameters_as_mmsegmentations(backbone: str, millions: tuple[float, ...]) -> None:
    with torch.device("meta"):
        model = build_segmentor(Recipe(backbone=Backbone(name=backbone), head=UPerNetHead()), 150)
    aux = count(model.head.aux_head)
    assert (count(model.backbone), count(model.head) - aux, aux) == pytest.approx(millions, rel=0.01)


@pytest.mark.parametrize(("channels", "millions"), [([32, 64, 160, 256], 0.43), ([64, 128, 320, 512], 0.57)])
def test_segformer_head_has_as_many_parameters_as_published(channels: list[int], millions: float) -> None:
    head = build_head(SegFormerHead(), channels, STRIDES, 150)
    assert count(head) == pytest.approx(millions, rel=0.012)


def count(module: nn.Module) -> float:
    return sum(parameter.numel() for parameter in module.parameters()) / 1e6


def test_the_auxiliary_head_is_there_while_training_and_where_weighted() -> None:
    features = [torch.randn(2, 8, 64 // s, 64 // s) for s in STRIDES]
    head = build_head(UPerNetHead(channels=8, aux_channels=8), [8] * 4, STRIDES, NUM_CLASSES)
    [(aux, weight)] = head(features)[1]
    assert (tuple(aux.shape), weight) == ((2, NUM_CLASSES, 4, 4), 0.4)
    assert head.eval()(features)[1] == []
    assert build_head(UPerNetHead(aux_weight=0), [8] * 4, STRIDES, NUM_CLASSES).aux_head is None


def test_upernet_of_equal_features_is_flat_inside() -> None:
    head = build_head(UPerNetHead(channels=8), [8] * 4, STRIDES, NUM_CLASSES).eval()
    features = [torch.ones(1, 8, 256 // s, 256 // s) for s in STRIDES]
    inner = head(features)[0][:, :, 30:34, 30:34]  # away from the borders' zero padding
    torch.testing.assert_close(inner, inner[:, :, :1, :1].expand_as(inner), rtol=0.0, atol=1e-6)


def test_pooled_batch_norm_is_batch_norm_but_for_single_values() -> None:
    own, torchs = PooledBatchNorm2d(3), nn.BatchNorm2d(3)
    x = torch.randn(2, 3, 4, 4)
    torch.testing.assert_close(own(x), torchs(x))
    single = torch.randn(1, 3, 1, 1)
    torch.testing.assert_close(own(single), torchs.eval()(single))


def test_padded_attention_leaves_large_maps_alone() -> None:
    block = nn.Conv2d(2, 2, 3, padding=1)
    large, small = torch.randn(1, 2, 8, 9), torch.randn(1, 2, 3, 10)
    torch.testing.assert_close(_AtLeast8(block)(large), block(large))
    assert _AtLeast8(nn.MaxPool2d(1))(small).equal(small)


@pytest.mark.parametrize("head", ["unet", "pspnet"])
def test_smp_decoders_refuse_other_strides(head: str) -> None:
    with pytest.raises(ValueError, match=f"head '{head}' needs features at strides 4, 8, 16 and 32"):
        build_head(head_cfg(head), [8] * 4, [16] * 4, NUM_CLASSES)
