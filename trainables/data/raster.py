"""Paints COCO segmentations as label maps, uint8 (H,W).

Polygons and RLE go through pycocotools, so that a mask is the one that `COCO.annToMask` gives, pixel for pixel.
"""

from __future__ import annotations

from collections.abc import Sequence
from reprlib import repr as short
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from trainables.data.index import Annotation, ImageRecord

Segmentation = list[list[float]] | dict[str, Any]

TOO_FEW_POINTS = "polygon of fewer than 3 points, left out"
NO_AREA = "polygon without area"
OUTSIDE = "polygon wholly outside the image, paints nothing"
EMPTY_MASK = "RLE without a pixel, paints nothing"

MIN_OUTLINE_LIMIT = 2**20  # px, for small images: 80 MB while an outline is walked
MAX_PIXELS = 2**31 - 1  # pycocotools counts runs in 32 bits
MERGED_AT_ONCE = 16


def in_painting_order(annotations: Sequence[Annotation]) -> list[Annotation]:
    """The annotations of an image in the order in which they are painted: larger masks first, ties as in the file."""
    return sorted(annotations, key=lambda each: -each.area)  # sorted() keeps ties in order


def rasterise(record: ImageRecord, ignore_index: int, *, background: bool = True) -> NDArray[np.uint8]:
    """Paint the annotations of one image: uint8 (H,W).

    Larger annotations (by their own masks) are painted first and smaller ones over them; equal ones keep the order of
    the file. Pixels under no annotation are 0 with a background class and `ignore_index` without. Categories that
    the card ignores paint `ignore_index`. A crowd (`iscrowd`) paints its class: the flag says that instances cannot
    be told apart, which a class map does not ask for. COCO's panoptic and stuff labels give such regions their class
    too; only the instance scores set them aside.

    Raises ValueError, with the annotation id, for a segmentation that cannot be painted.
    """
    height, width = record.height, record.width
    # pycocotools decodes column-major masks: painting in the same order is several times quicker.
    label = np.full((height, width), 0 if background else ignore_index, dtype=np.uint8, order="F")  # (H,W)
    for annotation in in_painting_order(record.annotations):
        try:
            mask = segmentation_mask(annotation.segmentation, height, width)
        except ValueError as error:
            raise ValueError(f"annotation {annotation.annotation_id}: {error}") from error
        label[mask.view(np.bool_)] = annotation.class_index
    return np.ascontiguousarray(label)


def segmentation_mask(segmentation: Segmentation, height: int, width: int) -> NDArray[np.uint8]:
    """The pixels of one annotation as 0 and 1: uint8 (H,W), column-major. Raises as `check_segmentation` does."""
    check_segmentation(segmentation, height, width)
    return np.asarray(coco_mask.decode(segmentation_rle(segmentation, height, width)), dtype=np.uint8)


def segmentation_rle(segmentation: Segmentation, height: int, width: int) -> dict[str, Any]:
    """A checked segmentation as compressed RLE: `size` [H, W] and `counts` as bytes.

    Only for what `check_segmentation` let pass, at this size or at that of an image of which this is a window.
    """
    if isinstance(segmentation, dict):
        counts = segmentation["counts"]
        if isinstance(counts, list):
            return dict(coco_mask.frPyObjects({"size": [height, width], "counts": counts}, height, width))
        return {"size": [height, width], "counts": counts.encode("ascii") if isinstance(counts, str) else counts}
    # frPyObjects takes a first polygon of four numbers for a box (x, y, w, h): such parts must not reach it.
    parts = [part for part in segmentation if len(part) >= 6]
    if not parts:
        return dict(coco_mask.encode(np.zeros((height, width), dtype=np.uint8, order="F")))
    rles = coco_mask.frPyObjects(parts, height, width)
    while len(rles) > 1:  # a tree: one merge of them all would walk the growing union once per part
        rles = [coco_mask.merge(rles[n : n + MERGED_AT_ONCE]) for n in range(0, len(rles), MERGED_AT_ONCE)]
    return dict(rles[0])


def check_segmentation(segmentation: Any, height: int, width: int) -> list[str]:
    """Rules that the segmentation bends but can be painted with, as counted warnings.

    Raises ValueError where it cannot be painted, or where pycocotools would crash, read past its buffers or fill the
    memory: no polygon at all, an odd number of coordinates, values that are no numbers or lie absurdly far outside,
    outlines longer than the image can need, an RLE of another size or one whose runs do not add up to H * W. Nothing
    is painted: the sizes may still be claims.
    """
    if height * width > MAX_PIXELS:
        raise ValueError(f"an image must have at most {MAX_PIXELS} px, got {width} x {height}; cut it into tiles")
    if isinstance(segmentation, dict):
        return _check_rle(segmentation, height, width)
    if not isinstance(segmentation, list):
        raise ValueError(f"segmentation must be polygons or RLE, got {type(segmentation).__name__}")
    if not segmentation:
        raise ValueError("segmentation is empty: no polygon and no RLE; draw it or remove the annotation")
    rules = sorted({rule for part in segmentation for rule in _check_polygon(part, height, width)})
    limit = max(MIN_OUTLINE_LIMIT, height * width // 4)
    length = outline_px(segmentation)
    if length > limit:  # walked in steps of a fifth of a pixel, at 16 bytes a step
        raise ValueError(
            f"the outlines must be at most {limit} px long in all in an image of {width} x {height} px, got "
            f"{length:.0f}; simplify them, or give the mask as RLE"
        )
    return rules


def outline_px(polygons: list[list[float]]) -> float:
    """How many pixels the outlines of the polygons pass: the longer of both sides of each edge, summed."""
    total = 0.0
    for part in polygons:
        if len(part) >= 6:
            points = np.asarray(part, np.float64).reshape(-1, 2)  # (P,2)
            total += float(np.abs(points - np.roll(points, 1, axis=0)).max(axis=1).sum()) + len(points)
    return total


def _check_polygon(part: Any, height: int, width: int) -> list[str]:
    if not isinstance(part, list):
        raise ValueError(f"a polygon must be a list [x, y, x, y, ...], got {short(part)}")
    if len(part) % 2:
        raise ValueError(f"a polygon needs an even number of coordinates, got {len(part)}")
    if any(type(value) is not int and type(value) is not float for value in part):
        raise ValueError(f"a polygon must be a flat list of finite numbers, got {short(part)}")
    if len(part) < 6:
        return [TOO_FEW_POINTS]
    try:
        flat = np.asarray(part, np.float64)
    except OverflowError:  # of hundreds of digits
        flat = np.array([np.inf])
    if not np.isfinite(flat).all():
        raise ValueError(f"a polygon must be a flat list of finite numbers, got {short(part)}")
    limit = 10 * max(height, width)
    if np.abs(flat).max() > limit:
        raise ValueError(f"a polygon's coordinates must lie near the image, within {limit} px, got {short(part)}")
    x, y = flat[0::2], flat[1::2]
    if abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) < 1e-9:
        return [NO_AREA]
    if x.max() <= 0 or y.max() <= 0 or x.min() >= width or y.min() >= height:
        return [OUTSIDE]
    return []


def _check_rle(rle: dict[str, Any], height: int, width: int) -> list[str]:
    size, counts = rle.get("size"), rle.get("counts")
    if not isinstance(size, list | tuple) or list(size) != [height, width]:
        raise ValueError(f"an RLE's size must be the image's [{height}, {width}], got {short(size)}")
    if isinstance(counts, list):
        if any(type(run) is not int or not 0 <= run <= height * width for run in counts):
            raise ValueError(f"an RLE's counts must be whole numbers from 0 to H * W, got {short(counts)}")
        runs = np.asarray(counts, dtype=np.int64)  # (R,)
    elif isinstance(counts, str | bytes):
        if isinstance(counts, str) and not counts.isascii():
            raise ValueError(f"an RLE's counts string must be ASCII, got {short(counts)}")
        runs = rle_runs(counts.encode() if isinstance(counts, str) else counts)
    else:
        raise ValueError(f"an RLE's counts must be a list or a string, got {type(counts).__name__}")
    # A shorter RLE would leave the rest of the decoded mask as uninitialised memory; a longer run could wrap the sum.
    if (runs < 0).any() or (runs > height * width).any() or runs.sum() != height * width:
        raise ValueError(f"an RLE's runs must add up to H * W = {height * width}, got {runs.sum()}")
    return [] if runs[1::2].any() else [EMPTY_MASK]


def rle_runs(counts: bytes) -> NDArray[np.int64]:
    """The run lengths in a compressed COCO RLE: int64 (R,).

    Every run is written in groups of five bits, lowest first, as bytes from 48 on; bit 5 says that more groups
    follow, and bit 4 of the last one is the sign. From the fourth on, a run is stored as its difference from the
    run before the last.
    """
    byte = np.frombuffer(counts, dtype=np.uint8).astype(np.int64) - 48  # (C,)
    if byte.size == 0:
        return np.zeros(0, dtype=np.int64)
    if byte.min() < 0 or byte.max() > 63 or byte[-1] & 0x20:
        raise ValueError(f"an RLE's counts string is broken: {counts[:40]!r}")
    ends = np.flatnonzero((byte & 0x20) == 0)  # (R,)
    starts = np.concatenate(([0], ends[:-1] + 1))
    position = np.arange(byte.size) - np.repeat(starts, ends - starts + 1)  # (C,) group number within its run
    if position.max() > 6:
        raise ValueError(f"an RLE's counts string holds a run beyond 2^31: {counts[:40]!r}")
    runs = np.add.reduceat((byte & 0x1F) << (5 * position), starts)
    negative = (byte[ends] & 0x10) != 0
    runs[negative] -= np.int64(1) << (5 * (position[ends][negative] + 1))
    for first in (1, 2):  # differences chain over every second run, from the second and third on
        runs[first::2] = np.cumsum(runs[first::2])
    return runs
