"""A flipped image gives flipped logits, once the weights are their own mirror image.

Convolutions, position embeddings and relative position tables are averaged with their flip. Then whatever is left
between the two is where the wiring, not the weights, knows left from right: a resize off by half a pixel, a lopsided
padding. Some architectures know it by design: windows that start at the left edge, or a stride-2 convolution of
odd width over an even grid, whose centres are not those of the flipped grid.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from trainables.models.compatibility import PLAIN_HEADS
from trainables.models.heads import HEADS, build_head, features_read
from trainables.models.open_vit import OpenBlocks
from trainables.models.segmentor import Segmentor
from trainables.recipe.recipe import Head

EXACT = 1e-4
# The largest share of a feature's norm by which the two may differ, and for how many levels, the finest first.
BACKBONES = {
    "test_convnext": (EXACT, 4),
    "convnext_atto": (EXACT, 4),
    "vit_tiny_patch16_224": (EXACT, 4),
    "beit_base_patch16_224": (EXACT, 4),
    "swin_tiny_patch4_window7_224": (0.1, 4),  # windows shifted to the right
    "twins_svt_small": (0.02, 4),  # windows from the left
    "mit_b0": (0.3, 1),  # 7 px at stride 4, 3 px at stride 2: centres move by a pixel a stage
    "resnet18": (0.3, 1),  # 7 px and 3 px at stride 2
    "convnext_pico": (EXACT, 4),
    "convnext_tiny.dinov3_lvd1689m": (EXACT, 4),
    "vit_small_patch14_reg4_dinov2": (EXACT, 4),
    "vit_base_patch14_reg1_tipsv2": (EXACT, 4),
    "vit_tiny_patch16_dinov3_qkvb": (0.1, 4),  # rotary positions turn one way
    "eva02_tiny_patch14_224": (0.1, 4),  # the same
    "mobilenetv4_conv_small": (0.3, 1),  # 3 px at stride 2
    "efficientvit_b0": (0.3, 1),  # the same
}
HEADS_ALLOWED = {
    "dpt": 0.7,  # 3 px at stride 2 for the coarsest of four
    "manet": 0.05,  # smp's position attention reshapes (hw,C) to (C,h,w)
}


def symmetric(model: nn.Module) -> nn.Module:
    model = copy.deepcopy(model).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("relative_position_bias_table"):
                extra = len(parameter) - math.isqrt(len(parameter)) ** 2  # BEiT's three for the class token
                table = parameter[: len(parameter) - extra]
                parameter.normal_()
                table.copy_(mirrored_grid(table))
            elif name.endswith("pos_embed"):
                prefix = parameter.shape[1] - math.isqrt(parameter.shape[1]) ** 2
                parameter.normal_()
                parameter[0, prefix:] = mirrored_grid(parameter[0, prefix:])
            elif name.endswith("downsample.reduction.weight"):  # Swin's merging: the left two pixels, the right two
                parameter.copy_((parameter + parameter.roll(parameter.shape[1] // 2, dims=1)) / 2)
            elif parameter.ndim == 4:
                parameter.copy_((parameter + parameter.flip(-1)) / 2)
    return model


def mirrored_grid(table: Tensor) -> Tensor:
    """(side*side,C) -> the same, equal to its mirror image."""
    side = math.isqrt(len(table))
    grid = table.reshape(side, side, -1)
    return ((grid + grid.flip(1)) / 2).reshape(table.shape)


def difference(one: Tensor, other: Tensor) -> float:
    return float((one - other).norm() / one.norm())


@pytest.mark.parametrize("backbone", BACKBONES)
def test_flipped_images_give_flipped_features(small_model: Callable[..., Segmentor], backbone: str) -> None:
    model = symmetric(small_model(backbone, "segformer").backbone)
    # smooth, so that centres a pixel apart see nearly the same
    size = (224, 224) if "patch14" in backbone else (128, 160)  # whole patches: padding is on the right alone
    image = functional.interpolate(torch.randn(1, 3, 5, 6), size=size, mode="bicubic")
    with torch.no_grad():
        found = [difference(a, b.flip(-1)) for a, b in zip(model(image), model(image.flip(-1)), strict=True)]
    allowed, num_levels = BACKBONES[backbone]
    assert max(found[:num_levels]) < allowed


OWN_HEADS = ("upernet", "knet", "segformer", "linear", "mask_classification", *sorted(PLAIN_HEADS))


def given(cfg: Head, features: list[Tensor]) -> list[Tensor] | OpenBlocks:
    """The features as the head gets them: as they are, or as tokens before blocks that do nothing."""
    if not features_read(cfg).open_blocks:
        return features
    [feature] = features
    grid = (feature.shape[2], feature.shape[3])
    tokens = feature.flatten(2).transpose(1, 2)
    blocks = [lambda tokens, mask: tokens] * features_read(cfg).open_blocks
    return OpenBlocks(tokens, 0, grid, blocks, lambda x: x.transpose(1, 2).reshape(1, -1, *grid))


@pytest.mark.parametrize(
    "head", [pytest.param(head, marks=() if head in OWN_HEADS else pytest.mark.slow) for head in HEADS]
)
def test_flipped_features_give_flipped_logits(head_cfg: Callable[..., Head], head: str) -> None:
    cfg = head_cfg(head)
    depths = features_read(cfg).depths
    strides = [16] * len(depths) or [4, 8, 16, 32]
    torch.manual_seed(0)
    model = symmetric(build_head(cfg, [16] * len(strides), strides, 5))
    features = [torch.randn(1, 16, 256 // stride, 256 // stride) for stride in strides]
    with torch.no_grad():
        logits, flipped = model(given(cfg, features))[0], model(given(cfg, [f.flip(-1) for f in features]))[0]
    assert logits.std() > 1e-3
    found = difference(logits, flipped.flip(-1))
    assert found < HEADS_ALLOWED.get(head, EXACT)
