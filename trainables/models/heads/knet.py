"""K-Net (Zhang 2021) for semantic segmentation: one kernel per class, refined in stages by what it selects.

Four features (B,C_i,H/s_i,W/s_i) give the logits (B,K,H/4,W/4) of the last stage and, while training, those of the
kernel generator (a UPerNet) and of every stage before the last, each with loss weight 1, and UPerNet's auxiliary.

Stage s turns kernels (B,K,D) and masks (B,K,h,w) into new ones by the paper's section 3.2: group features gathered
under the masks, eq. 4; gates from kernel and group feature, eq. 5; their gated sum, eq. 6; attention among the kernels
and a feed-forward network, "kernel interaction"; masks as the dot products of kernels and map, eq. 1. As in the
authors' code and mmsegmentation: masks by softmax over classes; a 1x1 convolution of the map in each stage; a linear
layer with norm before the one that gives the masks' kernels; kernels wider than 256 are updated in pieces of 256 that
share the update's weights. Difference: a group feature is divided by the mass of its mask. Layer norms after it remove
the factor again but for biases; undivided it grows with the image, so that test scales see other values than
training did, and float16 overflows.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from trainables.models.compatibility import PYRAMID, FeatureRequest
from trainables.models.heads.classifier import as_scored, full_precision, scoring
from trainables.models.heads.upernet import UPerNet
from trainables.recipe.recipe import KNetHead, UPerNetHead

_UPDATE_WIDTH = 256
_NUM_ATTENTION_HEADS = 8
_EXPANSION = 4  # of the feed-forward network
_TINY = 1e-6  # against the division by a mask that is zero everywhere


class KNet(nn.Module):
    def __init__(self, cfg: KNetHead, channels: list[int], strides: list[int], num_classes: int) -> None:
        super().__init__()
        upernet = UPerNetHead(
            channels=cfg.channels, dropout=cfg.dropout, aux_weight=cfg.aux_weight, aux_channels=cfg.aux_channels
        )
        self.generator = UPerNet(upernet, channels, strides, num_classes)
        self.stages = nn.ModuleList(KernelStage(cfg.channels) for _ in range(cfg.num_stages))
        self.stride = self.generator.stride

    @staticmethod
    def reads(cfg: KNetHead) -> FeatureRequest:  # noqa: ARG004
        return PYRAMID

    def forward(self, features: list[Tensor]) -> tuple[Tensor, list[tuple[Tensor, float]]]:
        fused = self.generator.fused(features)  # (B,D,h,w)
        masks = self.generator.classify(fused)
        kernels = self.generator.classifier.weight.flatten(1).expand(fused.shape[0], -1, -1)  # (B,K,D)
        earlier = []
        for stage in self.stages:
            earlier.append((masks, 1.0))
            masks, kernels = stage(fused, kernels, masks)
        if not self.training:
            return masks, []
        return masks, earlier + self.generator.auxiliary(features)


class KernelStage(nn.Module):
    """(map (B,D,h,w), kernels (B,K,D), masks (B,K,h,w)) -> (masks, kernels)."""

    def __init__(self, width: int, update_width: int = _UPDATE_WIDTH) -> None:
        super().__init__()
        self.transform = nn.Conv2d(width, width, 1)
        self.update = KernelUpdate(min(width, update_width))
        self.attention = nn.MultiheadAttention(width, _NUM_ATTENTION_HEADS, batch_first=True)
        self.attention_norm = nn.LayerNorm(width)
        self.feed_forward = nn.Sequential(
            nn.Linear(width, _EXPANSION * width), nn.ReLU(inplace=True), nn.Linear(_EXPANSION * width, width)
        )
        self.feed_forward_norm = nn.LayerNorm(width)
        self.mask_kernel = nn.Sequential(
            nn.Linear(width, width, bias=False), nn.LayerNorm(width), nn.ReLU(inplace=True), nn.Linear(width, width)
        )
        for parameter in self.parameters():
            if parameter.ndim > 1:
                nn.init.xavier_uniform_(parameter)

    def forward(self, fused: Tensor, kernels: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
        fused = self.transform(fused)
        kernels = self.update(gather(fused, masks), kernels)
        attended, _ = self.attention(kernels, kernels, kernels, need_weights=False)
        kernels = self.attention_norm(kernels + attended)
        kernels = self.feed_forward_norm(kernels + self.feed_forward(kernels))
        with scoring(self, fused.device.type):
            scorer = self.mask_kernel(as_scored(self, kernels))
            return torch.einsum("bkd,bdhw->bkhw", scorer, as_scored(self, fused)), kernels


class KernelUpdate(nn.Module):
    """Adaptive kernel update, eqs. 5 and 6: (group features (B,K,D), kernels (B,K,D)) -> kernels (B,K,D)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.from_group = nn.Linear(width, 2 * width)  # phi_1 of eq. 5 and psi_3 of eq. 6
        self.from_kernel = nn.Linear(width, 2 * width)  # phi_2 and psi_4
        self.group_gate = nn.Sequential(nn.Linear(width, width), nn.LayerNorm(width), nn.Sigmoid())  # psi_1, G^F
        self.kernel_gate = nn.Sequential(nn.Linear(width, width), nn.LayerNorm(width), nn.Sigmoid())  # psi_2, G^K
        self.group_norm = nn.LayerNorm(width)
        self.kernel_norm = nn.LayerNorm(width)
        self.out = nn.Sequential(nn.Linear(width, width), nn.LayerNorm(width), nn.ReLU(inplace=True))

    def forward(self, group: Tensor, kernels: Tensor) -> Tensor:
        pieces = *kernels.shape[:2], -1, self.width
        group_in, group_out = self.from_group(group.reshape(pieces)).chunk(2, dim=-1)
        kernel_in, kernel_out = self.from_kernel(kernels.reshape(pieces)).chunk(2, dim=-1)
        both = group_in * kernel_in  # (B,K,pieces,width)
        merged = self.group_gate(both) * self.group_norm(group_out) + self.kernel_gate(both) * self.kernel_norm(
            kernel_out
        )
        updated: Tensor = self.out(merged).flatten(-2)
        return updated


def gather(fused: Tensor, masks: Tensor) -> Tensor:
    """Group features (B,K,D), eq. 4: the mean of the map (B,D,h,w) under each class's probability (B,K,h,w)."""
    with full_precision(fused.device.type):  # shares of a pixel are below half precision's steps
        share = masks.float().softmax(dim=1)
        share = share / share.sum(dim=(2, 3), keepdim=True).clamp(min=_TINY)
        return torch.einsum("bkhw,bdhw->bkd", share, fused.float())
