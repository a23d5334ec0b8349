"""A plain transformer whose last blocks are left to the head, whose queries go through them with the patches.

That is how EoMT (Kerssies 2025) reads it. The tokens of a block are the model's own prefix (class token, registers),
then the queries, then the patches: what has no place in the image gets no rotary position, and patches keep theirs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


@dataclass(frozen=True)
class OpenBlocks:
    """Tokens (B,prefix+hw,D) as the last blocks get them, and these blocks.

    A block maps tokens (B,prefix+Q+hw,D), and what is added to attention (B,1,N,N) or None, to tokens. `as_map` makes
    patches (B,hw,D) a feature (B,D,H/stride,W/stride).
    """

    tokens: Tensor
    num_prefix: int
    grid: tuple[int, int]  # (h,w)
    blocks: Sequence[Callable[[Tensor, Tensor | None], Tensor]]
    as_map: Callable[[Tensor], Tensor]


class OpenTransformer(nn.Module):
    """image (B,C,H,W), multiples of 32 px -> `OpenBlocks` of timm's `model`, a VisionTransformer or an Eva.

    `pad` makes an image one of whole patches, and `resample` takes (feature, H, W) from the patches' grid to the
    stride. Raises ValueError where the model has no more than `num_open` blocks.
    """

    def __init__(
        self,
        model: Any,
        num_open: int,
        pad: Callable[[Tensor], Tensor],
        resample: Callable[[Tensor, int, int], Tensor],
    ) -> None:
        super().__init__()
        if num_open >= len(model.blocks):
            raise ValueError(
                f"num_blocks must leave the backbone blocks of its own, of which it has {len(model.blocks)}, got "
                f"{num_open}; use {len(model.blocks) - 1} or fewer"
            )
        self.model = model
        self._num_open = num_open
        self._pad, self._resample = pad, resample

    def forward(self, image: Tensor) -> OpenBlocks:
        model, (height, width) = self.model, image.shape[2:]
        padded = self._pad(image)
        grid = model.patch_embed.dynamic_feat_size((padded.shape[2], padded.shape[3]))
        embedded = model._pos_embed(model.patch_embed(padded))
        tokens, rope = embedded if isinstance(embedded, tuple) else (embedded, None)  # an Eva's has both
        tokens = model.norm_pre(tokens)
        ropes = list(rope) if getattr(model, "rope_mixed", False) else [rope] * len(model.blocks)
        steps = [self._step(block, one) for block, one in zip(model.blocks, ropes, strict=True)]
        for step in steps[: -self._num_open]:
            tokens = step(tokens, None)

        def as_map(patches: Tensor) -> Tensor:
            return self._resample(patches.transpose(1, 2).reshape(patches.shape[0], -1, *grid), height, width)

        return OpenBlocks(tokens, model.num_prefix_tokens, grid, steps[-self._num_open :], as_map)

    def _step(self, block: nn.Module, rope: Tensor | None) -> Callable[[Tensor, Tensor | None], Tensor]:
        def step(tokens: Tensor, mask: Tensor | None) -> Tensor:
            num_placed = tokens.shape[1] - self.model.num_prefix_tokens
            more: dict[str, Any] = {} if rope is None else {"rope": _with_queries(rope, num_placed)}
            if self.model.grad_checkpointing and torch.is_grad_enabled():
                out: Tensor = checkpoint(partial(block, attn_mask=mask, **more), tokens, use_reentrant=False)
            else:
                out = block(tokens, attn_mask=mask, **more)
            return out

        return step

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        self.model.set_grad_checkpointing(enable)


def _with_queries(rope: Tensor, num_tokens: int) -> Tensor:
    """Sines and cosines (...,hw,2d) -> (...,Q+hw,2d): what comes before the patches is turned by no angle."""
    sines, cosines = rope.chunk(2, dim=-1)
    shape = (*sines.shape[:-2], num_tokens - sines.shape[-2], sines.shape[-1])
    still = torch.cat([sines.new_zeros(shape), cosines.new_ones(shape)], dim=-1)
    return torch.cat([still, rope], dim=-2)
