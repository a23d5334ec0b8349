"""backbones: any timm model as four features at strides 4, 8, 16, 32."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import timm
import torch
from timm.layers.drop import DropPath

from trainables.models.backbones import PyramidBackbone, build_backbone
from trainables.models.compatibility import FeatureRequest
from trainables.models.segmentor import Segmentor
from trainables.recipe.recipe import Backbone

SWIN = "swin_tiny_patch4_window7_224"


def scratch(name: str, **kwargs: float) -> Backbone:
    return Backbone(name=name, pretrained=False, **kwargs)


@pytest.mark.parametrize(
    "name",
    [
        "test_convnext",  # channels first, 4 to 32
        "resnet18",  # with a stride-2 level
        SWIN,  # channels last, one image size by default
        "mobilenetv3_small_050",  # an extractor class of its own
        "hrnet_w18_small",
        "twins_svt_small",
        "vgg11",  # with levels at stride 1 and 2
        "mobilenetv4_conv_small",
        "efficientvit_b0",
        "convnext_pico",
    ],
)
def test_pyramid_has_four_levels_in_channels_first(name: str) -> None:
    with torch.device("meta"):
        backbone = build_backbone(scratch(name)).eval()
        features = backbone(torch.empty(2, 3, 96, 160))
    expected = [(2, c, 96 // s, 160 // s) for c, s in zip(backbone.channels, (4, 8, 16, 32), strict=True)]
    assert [tuple(feature.shape) for feature in features] == expected


def test_features_are_those_of_timm() -> None:
    backbone = build_backbone(scratch("resnet18")).eval()
    image = torch.randn(1, 3, 64, 64)
    levels = backbone.body.state_dict()
    timms = timm.create_model("resnet18", features_only=True).eval()
    timms.load_state_dict(levels)
    for own, other in zip(backbone(image), timms(image)[1:], strict=True):
        torch.testing.assert_close(own, other)


def test_levels_of_layer_norm_models_are_normalised_where_read() -> None:
    backbone = build_backbone(scratch("test_convnext"), FeatureRequest(levels=(0, 3))).eval()
    read, left = (backbone(torch.randn(2, 3, 64, 64))[i] for i in (0, 1))
    torch.testing.assert_close(read.mean(dim=1), torch.zeros(2, 16, 16), atol=1e-4, rtol=0.0)
    assert not torch.allclose(left.mean(dim=1), torch.zeros(2, 8, 8), atol=1e-4)


def test_batch_norm_models_get_no_norm() -> None:
    assert not list(build_backbone(scratch("resnet18")).norms.parameters())


def test_mean_and_std_are_those_of_the_weights() -> None:
    with torch.device("meta"):
        backbone = build_backbone(Backbone(name="resnetv2_50x1_bit"))
    cfg = timm.models.get_pretrained_cfg("resnetv2_50x1_bit")
    assert (backbone.mean, backbone.std) == (tuple(cfg.mean), tuple(cfg.std)) == ((0.5,) * 3, (0.5,) * 3)


@pytest.mark.parametrize("name", ["test_convnext", "resnet18", SWIN])
def test_drop_path_reaches_the_blocks(name: str) -> None:
    with torch.device("meta"):
        backbone = build_backbone(scratch(name, drop_path=0.3))
    rates = [module.drop_prob for module in backbone.modules() if isinstance(module, DropPath)]
    assert max(rates) == pytest.approx(0.3)


def test_no_drop_path_is_none_where_timm_has_some_by_default() -> None:
    with torch.device("meta"):
        backbone = build_backbone(scratch("swin_tiny_patch4_window7_224"))
    assert not any(isinstance(m, DropPath) and m.drop_prob for m in backbone.modules())


@pytest.mark.parametrize("name", ["vgg11", "hrnet_w18_small"])  # refuses the argument; swallows it
def test_drop_path_is_refused_where_the_model_has_none(name: str) -> None:
    with pytest.raises(ValueError, match=f"drop_path must be 0 for '{name}'.*got 0.1; use 0"):
        build_backbone(scratch(name, drop_path=0.1))


def test_unknown_backbone_is_told_with_the_nearest() -> None:
    with pytest.raises(ValueError, match="nearest: convnext_atto, "):
        build_backbone(scratch("convnxt_atto"))


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("efficientvit_m0", r"strides \[16, 32, 64\]"),
        ("inception_v3", "does not work on images of any size.*features of"),  # unpadded convolutions
        ("volo_d1_224", r"strides \[16, 16, 16\]"),
    ],
)
def test_models_without_a_pyramid_are_told_what_they_have(name: str, told: str) -> None:
    with torch.device("meta"), pytest.raises(ValueError, match=told):
        build_backbone(scratch(name))


@pytest.mark.parametrize("name", ["test_convnext", "mit_b0"])
def test_a_hierarchy_has_no_plain_features(name: str) -> None:
    with pytest.raises(ValueError, match=f"backbone '{name}' has no features at one stride"):
        build_backbone(scratch(name), FeatureRequest(depths=(1.0,)))


@pytest.mark.parametrize("name", ["test_convnext", "swin_tiny_patch4_window7_224", "test_vit", "mit_b0"])
@pytest.mark.parametrize("in_chans", [1, 4])
def test_images_may_have_other_channels(name: str, in_chans: int) -> None:
    with torch.device("meta"):
        backbone = build_backbone(scratch(name), in_chans=in_chans)
        features = backbone(torch.empty(1, in_chans, 64, 64))
    assert len(features) == 4
    assert len(backbone.mean) == len(backbone.std) == in_chans
    assert backbone.mean[-1] == backbone.mean[0]


RECOMPUTED = ["test_convnext", "vit_tiny_patch16_224", "beit_base_patch16_224", "mit_b0", "twins_svt_small", SWIN]
RECOMPUTED += ["vit_tiny_patch16_dinov3_qkvb", "vit_small_patch14_reg4_dinov2", "eva02_tiny_patch14_224"]


@pytest.mark.parametrize("name", RECOMPUTED)
def test_checkpointing_keeps_less_and_changes_no_gradient(small_model: Callable[..., Segmentor], name: str) -> None:
    backbone = small_model(name, "segformer").backbone
    image = torch.randn(1, 3, 32, 64)
    plain, num_kept = gradients(backbone, image), kept(backbone, image)
    assert backbone.set_grad_checkpointing()
    again, num_kept_then = gradients(backbone, image), kept(backbone, image)
    backbone.set_grad_checkpointing(False)
    assert num_kept_then < 0.5 * num_kept
    assert kept(backbone, image) == num_kept
    for name, gradient in plain.items():
        torch.testing.assert_close(again[name], gradient)


def kept(backbone: PyramidBackbone, image: torch.Tensor) -> int:
    """How many tensors a forward pass keeps for the backward pass."""
    seen = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: seen.append(x.shape) or x, lambda x: x):
        backbone.train()(image)
    return len(seen)


def gradients(backbone: PyramidBackbone, image: torch.Tensor) -> dict[str, torch.Tensor]:
    backbone.train().zero_grad()
    torch.stack([feature.square().mean() for feature in backbone(image)]).sum().backward()
    return {name: parameter.grad.clone() for name, parameter in backbone.named_parameters()}


def test_layers_are_ordered_from_the_stem() -> None:
    layer_of = build_backbone(scratch("test_convnext")).layer_of
    depths = [layer_of[f"body.stages_{stage}.blocks.0.conv_dw.weight"] for stage in range(4)]
    assert layer_of["body.stem_0.weight"] == 0
    assert depths == sorted(set(depths))
    assert layer_of["norms.3.weight"] == max(layer_of.values())


def test_swin_bias_tables_are_exempt_from_weight_decay() -> None:
    with torch.device("meta"):
        backbone = build_backbone(scratch(SWIN))
    names = {name for name, _ in backbone.named_parameters()}
    assert backbone.no_weight_decay <= names
    assert any(name.endswith("relative_position_bias_table") for name in backbone.no_weight_decay)
