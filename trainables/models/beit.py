"""BEiT and BEiT v2 for images of any size; timm's have a table of relative positions for one size each.

Tables are resized in each pass, as BEiT's authors resize them before fine-tuning (Bao 2022,
`run_class_finetuning.py`, the same as timm's `resize_rel_pos_bias_table`): known offsets are set out in a geometric
progression, finest about zero, so that it reaches the largest new offset, and between them the bias is linear. Offsets
of a few patches so keep their bias, whatever the size of the image. The tables themselves stay as they are, so one
model serves all sizes.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from timm.models.beit import Attention, gen_relative_position_index
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

_EXTRA = 3  # entries of a table for class token to patch, patch to class token, class token to itself


class Resizing(NamedTuple):
    """From a table of one window to one of a grid h x w."""

    entries: Tensor  # (1+hw,1+hw) int64: which entry of the grid's table holds for query, key
    rows: Tensor | None  # (2h-1,2h0-1): new vertical offsets from known ones; None where they are the same
    columns: Tensor | None  # (2w-1,2w0-1)


class AnyGridAttention(nn.Module):
    """timm's BEiT attention, with the table resized to the grid at hand."""

    def __init__(self, attention: Attention) -> None:
        super().__init__()
        self.num_heads = attention.num_heads
        self.window = attention.window_size
        self.qkv = attention.qkv
        self.q_bias = attention.q_bias
        self.v_bias = attention.v_bias
        self.relative_position_bias_table = attention.relative_position_bias_table  # (offsets+3,heads)
        self.dropout = attention.attn_drop.p
        self.proj = attention.proj
        self.proj_drop = attention.proj_drop

    def forward(self, x: Tensor, shared_rel_pos_bias: Resizing) -> Tensor:
        """x (B,N,D) -> (B,N,D). The second argument is how timm's block names what it hands down from the model."""
        bias = None if self.q_bias is None else torch.cat([self.q_bias, torch.zeros_like(self.q_bias), self.v_bias])
        qkv = functional.linear(x, self.qkv.weight, bias)
        q, k, v = qkv.reshape(*x.shape[:2], 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)  # each (B,heads,N,d)
        mixed = functional.scaled_dot_product_attention(
            q, k, v, attn_mask=self._bias(shared_rel_pos_bias), dropout_p=self.dropout if self.training else 0.0
        )
        out: Tensor = self.proj_drop(self.proj(mixed.transpose(1, 2).flatten(2)))
        return out

    def _bias(self, resizing: Resizing) -> Tensor:
        """(1,heads,N,N)."""
        table: Tensor = self.relative_position_bias_table
        if resizing.rows is not None and resizing.columns is not None:
            known = [2 * side - 1 for side in self.window]
            offsets = table[:-_EXTRA].T.reshape(-1, *known)  # (heads,2h0-1,2w0-1)
            offsets = resizing.rows @ offsets @ resizing.columns.T  # (heads,2h-1,2w-1)
            table = torch.cat([offsets.flatten(1).T, table[-_EXTRA:]])
        return table[resizing.entries].permute(2, 0, 1)[None]


class BeitFeatures(nn.Module):
    """image (B,C,H,W), multiples of the patch -> features (B,D,h,w), one for each of `blocks`."""

    def __init__(self, model: Any, blocks: Sequence[int], patch_px: int, stride: int) -> None:
        super().__init__()
        assert patch_px == stride, "every BEiT of timm has patches of 16 px"
        assert model.pos_embed is None, "every BEiT of timm has relative positions alone"
        assert model.rel_pos_bias is None, "every BEiT of timm has a table in each block"
        self.model = model
        self.model.patch_embed.strict_img_size = False
        for block in model.blocks:
            block.attn = AnyGridAttention(block.attn)
        self._blocks = list(blocks)
        self._patch_px = patch_px

    def forward(self, image: Tensor) -> list[Tensor]:
        model = self.model
        grid = image.shape[2] // self._patch_px, image.shape[3] // self._patch_px
        resizing = resize_to(grid, model.blocks[0].attn.window, image.device)
        x = model.patch_embed(image)
        x = model.pos_drop(torch.cat([model.cls_token.expand(len(x), -1, -1), x], dim=1))  # (B,1+hw,D)
        after = {}
        for i, block in enumerate(model.blocks):
            if model.grad_checkpointing and torch.is_grad_enabled():
                x = checkpoint(block, x, shared_rel_pos_bias=resizing, use_reentrant=False)
            else:
                x = block(x, shared_rel_pos_bias=resizing)
            if i in self._blocks:
                after[i] = x[:, 1:].transpose(1, 2).reshape(len(x), -1, *grid)
        return [after[i] for i in self._blocks]

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        self.model.set_grad_checkpointing(enable)


def resize_to(grid: tuple[int, int], window: tuple[int, int], device: torch.device) -> Resizing:
    """The map from tables of `window` (patches, height and width) to tables of `grid`."""
    index = gen_relative_position_index(grid, device=device)
    if tuple(grid) == tuple(window):
        return Resizing(index, None, None)
    rows, columns = (offset_weights(known, wanted, device) for known, wanted in zip(window, grid, strict=True))
    return Resizing(index, rows, columns)


def offset_weights(known: int, wanted: int, device: torch.device) -> Tensor:
    """(2*wanted-1, 2*known-1): each new offset, from -(wanted-1) to wanted-1, as a mean of two known ones.

    Computed where it is needed: a table that came from the host would wait for the device in every step.
    """
    steps = torch.arange(1 - known, known, dtype=torch.float64, device=device)
    ratio = _ratio(known - 1, wanted - 1)
    positions = steps.sign() * (ratio ** steps.abs() - 1) / (ratio - 1)  # sums of a geometric progression
    offsets = torch.arange(1 - wanted, wanted, dtype=torch.float64, device=device)
    offsets = offsets.clamp(positions[0], positions[-1])[:, None]
    gaps = positions.diff()
    rising = (offsets - positions[:-1]) / gaps  # 0 to 1 in the gap before a known offset
    falling = 1 - rising  # 1 to 0 in the gap after it
    edge = torch.full_like(offsets, torch.inf)
    return torch.minimum(torch.cat([edge, rising], 1), torch.cat([falling, edge], 1)).clamp(0, 1).float()


@functools.cache
def _ratio(steps: int, distance: int) -> float:
    """The ratio in [1.01, 1.5] with which `steps` steps, the first of length 1, reach `distance`, or nearly."""
    low, high = 1.01, 1.5
    while high - low > 1e-6:
        middle = (low + high) / 2
        reached = (1 - middle**steps) / (1 - middle)
        low, high = (low, middle) if reached > distance else (middle, high)
    return (low + high) / 2
