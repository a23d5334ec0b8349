"""DINOv3's rotary positions, made on the device: timm makes their grid on the host, and a pass waits for its copy."""

from __future__ import annotations

import torch
from timm.layers.pos_embed_sincos import RotaryEmbeddingDinoV3, make_coords_dinov3
from torch import Tensor, nn
from typing_extensions import override


class DeviceRotary(RotaryEmbeddingDinoV3):
    """timm's positions, to the last bit on a CPU."""

    @override
    def _create_embed(self, feat_shape: list[int], no_aug: bool = False) -> Tensor:
        if self.training and self.aug_active and not no_aug:  # drawn on the host
            drawn: Tensor = super()._create_embed(feat_shape, no_aug)
            return drawn
        height, width = feat_shape
        how = self.normalize_coords, self.grid_indexing, self.grid_offset
        grid = make_coords_dinov3(height, width, *how, device=self.periods.device)
        return torch.cat(self._get_pos_embed_from_coords(grid), dim=-1)


def make_on_device(body: nn.Module) -> None:
    """Let `body` make its rotary positions where it is; parameters and their names stay."""
    for module in body.modules():
        if type(module) is RotaryEmbeddingDinoV3:
            module.__class__ = DeviceRotary
