"""Keeps the look of stacked shapes under a rule that paints larger masks first.

Tools paint shapes in their own order. A shape with a larger one above it would come out on top: it is cut down to what
is seen of it. All other shapes stay as they are, so most polygons stay polygons.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from analysis.conversion.source import mask_rle
from trainables.data.raster import Segmentation, segmentation_rle


def cut_hidden(stack: Sequence[Segmentation], height: int, width: int) -> list[Segmentation | None]:
    """The shapes of one image, bottom first, so that painting larger ones first shows what painting them in their
    order shows; None where nothing of a shape is seen. Only for what `check_segmentation` let pass.

    Exact: of two overlapping shapes, either the lower one is the larger (equal ones keep their order), or it was cut
    by all above it. A cut makes a shape smaller, which moves it towards the top only among those that lie under it.
    """
    rles = [segmentation_rle(shape, height, width) for shape in stack]
    areas = [int(coco_mask.area(rle)) for rle in rles]
    kept: list[Segmentation | None] = list(stack)
    if areas == sorted(areas, reverse=True):
        return kept
    largest_above = np.zeros((height, width), np.int64, order="F")  # area of the largest shape above each pixel
    for n in reversed(range(len(stack))):
        mask = coco_mask.decode(rles[n]).view(np.bool_)
        box = _box(rles[n])  # most shapes are small
        inside, above = mask[box], largest_above[box]
        if areas[n] < above.max(where=inside, initial=0):
            seen = np.zeros_like(mask)
            seen[box] = inside & (above == 0)
            kept[n] = mask_rle(seen) if seen.any() else None
        np.maximum(above, areas[n], out=above, where=inside)
    return kept


def _box(rle: dict[str, Any]) -> tuple[slice, slice]:
    """Rows and columns of the box around a mask."""
    left, top, columns, rows = (int(value) for value in coco_mask.toBbox(rle))
    return slice(top, top + rows), slice(left, left + columns)
