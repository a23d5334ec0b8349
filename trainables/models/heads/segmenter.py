"""Segmenter's mask transformer (Strudel 2021, section 3.2) over a plain vision transformer.

The feature (B,D,h,w) after the last block gives logits (B,K,h,w) at the transformer's own stride. One learnt embedding
per class joins the patches through `num_layers` transformer layers; a class's mask is the product of its embedding
with each patch's, both of length 1 after a projection each, followed by a layer norm over classes.

As in the authors' code and mmsegmentation: a linear projection before the layers, one attention head per 64 channels.
Difference: of two classes a layer norm leaves only the sign of their difference, which has no gradient, so that two
classes get its scale and shift without the normalising; the encoder's last norm is the backbone's, learnt anew.
"""

from __future__ import annotations

import torch
from timm.layers.weight_init import trunc_normal_
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.nn import functional

from trainables.models.compatibility import FeatureRequest
from trainables.models.heads.classifier import as_scored, scoring
from trainables.recipe.recipe import SegmenterHead

_HEAD_WIDTH = 64
_COSINE_SCALE = 10.0  # of two classes' logits: cosines alone are too close together for a softmax


class Segmenter(nn.Module):
    def __init__(self, cfg: SegmenterHead, channels: list[int], strides: list[int], num_classes: int) -> None:
        super().__init__()
        width = channels[-1]
        self.stride = strides[-1]
        self.project = nn.Linear(width, width)
        self.classes = nn.Parameter(torch.zeros(1, num_classes, width))
        self.layers = nn.Sequential(
            *[
                Block(width, num_heads(width), qkv_bias=True, proj_drop=cfg.dropout, attn_drop=cfg.dropout)
                for _ in range(cfg.num_layers)
            ]
        )
        self.norm = nn.LayerNorm(width)
        self.project_patches = nn.Linear(width, width, bias=False)
        self.project_classes = nn.Linear(width, width, bias=False)
        self.mask_norm = nn.LayerNorm(num_classes) if num_classes > 2 else _Affine(num_classes)
        self.apply(_init)
        trunc_normal_(self.classes, std=0.02)
        for projection in (self.project_patches, self.project_classes):
            nn.init.normal_(projection.weight, std=width**-0.5)

    @staticmethod
    def reads(cfg: SegmenterHead) -> FeatureRequest:  # noqa: ARG004
        return FeatureRequest(depths=(1.0,))

    def forward(self, features: list[Tensor]) -> tuple[Tensor, list[tuple[Tensor, float]]]:
        [feature] = features
        grid = feature.shape[2:]
        patches = self.project(feature.flatten(2).transpose(1, 2))  # (B,hw,D)
        num_patches = patches.shape[1]
        tokens = torch.cat([patches, self.classes.expand(patches.shape[0], -1, -1)], dim=1)
        tokens = self.norm(self.layers(tokens))  # (B,hw+K,D)
        masks = self.masks(tokens[:, :num_patches], tokens[:, num_patches:])
        return masks.reshape(*masks.shape[:2], *grid), []

    def masks(self, patches: Tensor, classes: Tensor) -> Tensor:
        """(B,P,D), (B,K,D) -> (B,K,P)."""
        with scoring(self, patches.device.type):
            patches = functional.normalize(self.project_patches(as_scored(self, patches)), dim=-1)
            classes = functional.normalize(self.project_classes(as_scored(self, classes)), dim=-1)
            masks: Tensor = self.mask_norm(patches @ classes.transpose(1, 2))  # (B,P,K)
        return masks.transpose(1, 2)


class _Affine(nn.Module):
    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((num_classes,), _COSINE_SCALE))
        self.bias = nn.Parameter(torch.zeros(num_classes))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight + self.bias


def num_heads(width: int) -> int:
    """The number of attention heads that divides `width` into heads of 64 channels, or the nearest wider."""
    return next(heads for heads in range(max(1, width // _HEAD_WIDTH), 0, -1) if width % heads == 0)


def _init(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
