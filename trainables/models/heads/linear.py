"""One linear map of every pixel's features, the cheapest head: for frozen backbones, and as a baseline.

Of a hierarchy it reads the four levels, (B,C_i,H/s_i,W/s_i) -> logits (B,K,H/4,W/4): a linear map of all levels,
resized and stacked (the hypercolumn of Hariharan 2015), is the sum of one map per level, resized afterwards, since a
linear map of each pixel and a bilinear resize can change places. Of a plain transformer it reads the last block's
features, as DINOv2's linear evaluation does (Oquab 2023, section 7.4), (B,D,h,w) -> (B,K,h,w).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from trainables.models.compatibility import FeatureRequest
from trainables.models.heads.classifier import Classifier
from trainables.models.heads.conv_norm import init_head
from trainables.models.resize import resize
from trainables.recipe.recipe import LinearHead


class Linear(nn.Module):
    def __init__(self, cfg: LinearHead, channels: list[int], strides: list[int], num_classes: int) -> None:
        super().__init__()
        self.stride = strides[0]
        self.dropout = nn.Dropout2d(cfg.dropout)
        self.classifiers = nn.ModuleList(Classifier(width, num_classes, 1) for width in channels)
        init_head(self)

    @staticmethod
    def reads(cfg: LinearHead) -> FeatureRequest:  # noqa: ARG004
        return FeatureRequest(plain_depths=(1.0,))

    def forward(self, features: list[Tensor]) -> tuple[Tensor, list[tuple[Tensor, float]]]:
        size = features[0].shape[2:]
        parts = zip(self.classifiers, features, strict=True)
        return torch.stack([resize(classify(self.dropout(x)), size) for classify, x in parts]).sum(0), []
