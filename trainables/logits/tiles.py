"""Predicts large images in overlapping tiles of one size, blended by a Gaussian, so that the model sees the scale that
it was trained on and memory is bounded by a batch of tiles.

Tiles begin at multiples of 32 px, so their logits lie on the whole image's grid. They are blended as logits, each
weighted by a Gaussian of an eighth of its side around its centre (Isensee et al., nnU-Net, Nature Methods 18, 2021).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from trainables.logits.view import Tile
from trainables.logits.view_name import TILE_STRIDE_PX

SIGMA = 1 / 8  # of a tile's side


def tiled_logits(
    logits_of: Callable[[Tensor], Tensor], images: Tensor, tile: Tile, batch_size: int
) -> Tensor:  # (B,3,H,W) -> (B,K,h,w)
    """What `logits_of` says of the images, of at most `batch_size` tiles at a time. Where one tile covers them, it is
    what it says of them whole. H and W are multiples of 32 px."""
    height, width = images.shape[2:]
    if max(height, width) <= tile.px:
        return logits_of(images)
    tall, wide = min(tile.px, height), min(tile.px, width)
    places = [
        (b, top, left)
        for b in range(images.shape[0])
        for top in tile_starts(height, tile)
        for left in tile_starts(width, tile)
    ]
    total = weights = share = None
    for start in range(0, len(places), batch_size):
        some = places[start : start + batch_size]
        found = logits_of(torch.stack([images[b, :, y : y + tall, x : x + wide] for b, y, x in some])).float()
        if total is None or weights is None or share is None:
            stride = tall // found.shape[2]
            size = images.shape[0], found.shape[1], height // stride, width // stride
            total, weights = found.new_zeros(size), found.new_zeros(size[0], 1, *size[2:])
            share = _gaussian(found)
        for (b, top, left), logits in zip(some, found, strict=True):
            y, x = top // stride, left // stride
            part = (b, slice(None), slice(y, y + logits.shape[1]), slice(x, x + logits.shape[2]))
            total[part] += share * logits
            weights[part] += share
    assert total is not None
    assert weights is not None
    return total / weights


def tile_starts(side_px: int, tile: Tile) -> list[int]:
    """Where tiles begin along a side, spread evenly: the fewest that overlap by the tile's share and cover the side."""
    span = side_px - min(tile.px, side_px)
    step = max(TILE_STRIDE_PX, int(tile.px * (1 - tile.overlap)) // TILE_STRIDE_PX * TILE_STRIDE_PX)
    gaps = math.ceil(span / step)
    return [0] + [round(i * span / gaps / TILE_STRIDE_PX) * TILE_STRIDE_PX for i in range(1, gaps + 1)]


def _gaussian(logits: Tensor) -> Tensor:  # (B,K,h,w) -> (h,w), float32
    tall, wide = (
        torch.exp(-0.5 * ((torch.arange(n, device=logits.device) + 0.5) / n - 0.5).square() / SIGMA**2)
        for n in logits.shape[2:]
    )
    return tall[:, None] * wide
