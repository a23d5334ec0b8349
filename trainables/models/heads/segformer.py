"""SegFormer's all-MLP head (Xie 2021, eq. 4). Four features (B,C_i,H/s_i,W/s_i) -> logits (B,K,H/4,W/4).

Each level is projected to `channels` by a linear map (a 1x1 convolution), upsampled bilinearly to stride 4, and the
four are fused by one linear map with batch norm and ReLU. As in the authors' code the projections have a bias and no
norm; mmsegmentation's give them a batch norm each instead, 0.24% more parameters at MiT-B0's widths.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from trainables.models.compatibility import PYRAMID, FeatureRequest
from trainables.models.heads.classifier import Classifier
from trainables.models.heads.conv_norm import conv_norm_relu, init_head
from trainables.models.resize import resize
from trainables.recipe.recipe import SegFormerHead


class SegFormer(nn.Module):
    def __init__(self, cfg: SegFormerHead, channels: list[int], strides: list[int], num_classes: int) -> None:
        super().__init__()
        self.stride = strides[0]
        projections = [nn.Conv2d(c, cfg.channels, 1) for c in channels]
        self.projections = nn.ModuleList(projections)
        self.fuse = conv_norm_relu(len(channels) * cfg.channels, cfg.channels, 1)
        self.dropout = nn.Dropout2d(cfg.dropout)
        self.classifier = Classifier(cfg.channels, num_classes, 1)
        init_head(self)
        for projection in projections:  # not classifiers, though they have a bias
            nn.init.xavier_uniform_(projection.weight)

    @staticmethod
    def reads(cfg: SegFormerHead) -> FeatureRequest:  # noqa: ARG004
        return PYRAMID

    def forward(self, features: list[Tensor]) -> tuple[Tensor, list[tuple[Tensor, float]]]:
        size = features[0].shape[2:]
        projected = [resize(project(f), size) for project, f in zip(self.projections, features, strict=True)]
        # Coarsest first, the order in which published weights concatenate.
        fused = self.fuse(torch.cat(projected[::-1], dim=1))
        return self.classifier(self.dropout(fused)), []
