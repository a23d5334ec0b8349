"""Where the pixels of an augmented crop come from, so that what is known of an image's pixels can follow them.

A map (H,W) int32 goes through the training pipeline as a label does: moved by nearest neighbour, filled with
IGNORE_INDEX. A pixel of the image is its flat position plus FIRST_PIXEL, which no fill reaches; where classes that mean
a side have changed places, the number is negative.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

SourceMap = NDArray[np.int32]
Float = NDArray[np.float32]
FIRST_PIXEL = 256  # above IGNORE_INDEX, which pads, and fills holes


def source_map(height: int, width: int) -> SourceMap:
    """(H,W): every pixel comes from itself."""
    return np.arange(FIRST_PIXEL, FIRST_PIXEL + height * width, dtype=np.int32).reshape(height, width)


def swapped(where: SourceMap) -> SourceMap:
    """The same pixels, their paired classes exchanged; exchanged again, they are as they were."""
    return np.negative(where)


def follow(grid: Float, where: SourceMap, size: tuple[int, int], order: NDArray[np.int64]) -> Float:
    """Values of an image of `size` (H,W) on a coarse grid (K,h,w) at the source pixels `where` (h',w'), bilinear as the
    project's one resize: (K,h',w'), NaN where a pixel comes from nowhere. `order` (K,) exchanges the paired classes."""
    height, width = size
    numbers = np.abs(where.ravel()).astype(np.int64) - FIRST_PIXEL  # (P,)
    known = numbers >= 0
    rows, columns = np.divmod(np.where(known, numbers, 0), width)
    low_y, high_y, share_y = _between(rows, height, grid.shape[1])
    low_x, high_x, share_x = _between(columns, width, grid.shape[2])
    upper = grid[:, low_y, low_x] * (1 - share_x) + grid[:, low_y, high_x] * share_x  # (K,P)
    lower = grid[:, high_y, low_x] * (1 - share_x) + grid[:, high_y, high_x] * share_x
    found = upper * (1 - share_y) + lower * share_y
    exchanged = where.ravel() < 0
    if exchanged.any():
        found = np.where(exchanged, found[order], found)
    return np.where(known, found, np.float32(np.nan)).astype(np.float32).reshape(-1, *where.shape)


def _between(
    pixel: NDArray[np.int64], side_px: int, cells: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], Float]:  # the two cells of each pixel on one axis, the second's share
    position = np.clip((pixel + 0.5) * (cells / side_px) - 0.5, 0, cells - 1)
    low = position.astype(np.int64)
    return low, np.minimum(low + 1, cells - 1), (position - low).astype(np.float32)
