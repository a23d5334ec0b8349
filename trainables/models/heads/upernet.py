"""UPerNet (Xiao 2018): pyramid pooling on the coarsest level, a feature pyramid over all, one fused map.

Four features (B,C_i,H/s_i,W/s_i) give logits (B,K,H/4,W/4) and, with `aux_weight`, those of an FCN head on the
stride-16 level (B,K,H/16,W/16). As in mmsegmentation: laterals 1x1, outputs 3x3, fusion 3x3, all with batch norm and
ReLU, bilinear upsampling (align_corners=False), channel dropout before the 1x1 classifier.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from trainables.models.compatibility import PYRAMID, FeatureRequest
from trainables.models.heads.classifier import Classifier
from trainables.models.heads.conv_norm import conv_norm_relu, init_head
from trainables.models.heads.fcn import FCNHead
from trainables.models.resize import resize
from trainables.recipe.recipe import UPerNetHead

_POOL_PX = (1, 2, 3, 6)
_AUX_LEVEL = 2  # stride 16


class UPerNet(nn.Module):
    def __init__(self, cfg: UPerNetHead, channels: list[int], strides: list[int], num_classes: int) -> None:
        super().__init__()
        self.stride = strides[0]
        width, top = cfg.channels, channels[-1]
        self.pools = nn.ModuleList(
            nn.Sequential(nn.AdaptiveAvgPool2d(px), conv_norm_relu(top, width, 1)) for px in _POOL_PX
        )
        self.bottleneck = conv_norm_relu(top + len(_POOL_PX) * width, width, 3)
        self.laterals = nn.ModuleList(conv_norm_relu(c, width, 1) for c in channels[:-1])
        self.outputs = nn.ModuleList(conv_norm_relu(width, width, 3) for _ in channels[:-1])
        self.fuse = conv_norm_relu(len(channels) * width, width, 3)
        self.dropout = nn.Dropout2d(cfg.dropout)
        self.classifier = Classifier(width, num_classes, 1)
        self.aux_weight = cfg.aux_weight
        self.aux_head = (
            FCNHead(channels[_AUX_LEVEL], cfg.aux_channels, num_classes, cfg.dropout) if cfg.aux_weight else None
        )
        init_head(self)

    @staticmethod
    def reads(cfg: UPerNetHead) -> FeatureRequest:  # noqa: ARG004
        return PYRAMID

    def forward(self, features: list[Tensor]) -> tuple[Tensor, list[tuple[Tensor, float]]]:
        return self.classify(self.fused(features)), self.auxiliary(features)

    def classify(self, fused: Tensor) -> Tensor:
        """(B,channels,H/4,W/4) -> logits (B,K,H/4,W/4)."""
        logits: Tensor = self.classifier(self.dropout(fused))
        return logits

    def auxiliary(self, features: list[Tensor]) -> list[tuple[Tensor, float]]:
        """The auxiliary logits with their weight, while training."""
        if self.aux_head is None or not self.training:
            return []
        return [(self.aux_head(features[_AUX_LEVEL]), self.aux_weight)]

    def fused(self, features: list[Tensor]) -> Tensor:
        """The map before the classifier, (B,channels,H/4,W/4)."""
        top = self._pyramid_pooling(features[-1])
        levels = [lateral(f) for lateral, f in zip(self.laterals, features[:-1], strict=True)] + [top]
        for i in range(len(levels) - 1, 0, -1):
            levels[i - 1] = levels[i - 1] + resize(levels[i], levels[i - 1].shape[2:])
        outputs = [output(level) for output, level in zip(self.outputs, levels[:-1], strict=True)] + [top]
        merged: Tensor = self.fuse(torch.cat([resize(o, outputs[0].shape[2:]) for o in outputs], dim=1))
        return merged

    def _pyramid_pooling(self, top: Tensor) -> Tensor:
        pooled = [resize(pool(top), top.shape[2:]) for pool in self.pools]
        merged: Tensor = self.bottleneck(torch.cat([top, *pooled], dim=1))
        return merged
