"""A pyramid from the features of a plain transformer.

Four features (B,C,H/p,W/p) at the transformer's own stride p, a power of two, are taken to strides 4, 8, 16 and 32, C
channels each. As in BEiT's segmentation code (Bao 2022) and ViTDet (Li 2022, section 3, the "simple feature pyramid"):
transposed 2x2 convolutions of stride 2 upwards, with a norm and GELU between two of them, the identity, max pooling
downwards. As in ViTDet the norm is a layer norm; BEiT's batch norm has as many parameters.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from timm.layers.norm import LayerNorm2d
from torch import Tensor, nn


class SimplePyramid(nn.Module):
    """Level i comes from feature i. A level that is not read is left at stride p, so that it costs nothing."""

    def __init__(self, channels: int, stride: int, strides: Sequence[int], levels: Sequence[int]) -> None:
        super().__init__()
        self.scalings = nn.ModuleList(
            scaling(channels, round(math.log2(stride / goal))) if level in levels else nn.Identity()
            for level, goal in enumerate(strides)
        )

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        return [scale(feature) for scale, feature in zip(self.scalings, features, strict=True)]


def scaling(channels: int, doublings: int) -> nn.Module:
    """(B,C,h,w) -> (B,C,h*2^doublings,w*2^doublings)."""
    if doublings <= 0:
        return nn.MaxPool2d(2**-doublings) if doublings else nn.Identity()
    steps: list[nn.Module] = []
    for step in range(doublings):
        steps += [LayerNorm2d(channels), nn.GELU()] if step else []
        steps.append(nn.ConvTranspose2d(channels, channels, 2, stride=2))
    return nn.Sequential(*steps)
