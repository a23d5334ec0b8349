"""Decodes images to uint8 RGB (H,W,3) and paints COCO segmentations as label maps, uint8 (H,W).

Polygons and RLE go through pycocotools, so that a mask is the one that `COCO.annToMask` gives, pixel for pixel.
"""

from __future__ import annotations

import hashlib
import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from pycocotools import mask as coco_mask

from trainables.data.index import ImageRecord

Segmentation = list[list[float]] | dict[str, Any]

TOO_FEW_POINTS = "polygon of fewer than 3 points, left out"
NO_AREA = "polygon without area"
OUTSIDE = "polygon wholly outside the image, paints nothing"
EMPTY_MASK = "RLE without a pixel, paints nothing"


EDGE_BYTES = 64 * 1024
EIGHT_BIT_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")
ORIENTATION_TAG = 0x0112  # EXIF
UNREADABLE = (UnidentifiedImageError, Image.DecompressionBombError, OSError, SyntaxError)
END_MARKS = {"JPEG": b"\xff\xd9", "PNG": b"IEND"}  # scan data never holds JPEG's: its 0xFF bytes are stuffed


@dataclass(frozen=True)
class ImageFile:
    """Facts from the head and the tail of an image file, without decoding it."""

    height: int
    width: int
    orientation: int  # EXIF; 1 is upright
    digest: str  # of its length and its first and last 64 KiB


def probe_image(path: Path) -> ImageFile:
    """Probe an image file cheaply. Raises ValueError for one that is missing, cut short or not readable."""
    if not path.is_file():
        raise ValueError(f"no file at {path}; add it, correct root, or take the image out of the JSON")
    try:
        with path.open("rb") as stream, Image.open(stream) as image:
            _refuse_deep(image)
            mark = END_MARKS.get(image.format or "")
            size, head, tail = _edges(stream)
            if mark is not None and mark not in tail:
                raise ValueError(f"the file is cut short after {size} bytes; copy it again")
            digest = hashlib.blake2b(head + tail + str(size).encode(), digest_size=16).hexdigest()
            return ImageFile(image.height, image.width, _orientation(image), digest)
    except UNREADABLE as error:
        raise ValueError(f"the file cannot be read as an image ({error}); copy it again") from error


def _orientation(image: Image.Image) -> int:
    try:
        tag = image.getexif().get(ORIENTATION_TAG, 1)
    except (SyntaxError, ValueError, struct.error):  # broken EXIF says nothing, and the pixels may still be sound
        return 1
    return tag if isinstance(tag, int) else 1


def _edges(stream: BinaryIO) -> tuple[int, bytes, bytes]:
    size = stream.seek(0, os.SEEK_END)
    stream.seek(0)
    head = stream.read(EDGE_BYTES)
    stream.seek(max(0, size - EDGE_BYTES))
    return size, head, stream.read(EDGE_BYTES)


def read_image(path: Path) -> NDArray[np.uint8]:
    """Decode one image: RGB uint8 (H,W,3) as stored, its EXIF orientation not applied.

    Raises ValueError naming the file for one that is missing, truncated (OpenCV would return it half grey), or
    of more than 8 bits a channel. Every part that shows a model a picture reads it here, so that a prediction
    sees the same pixels as training did.
    """
    try:
        with Image.open(path) as image:
            _refuse_deep(image)
            return np.array(image.convert("RGB"))
    except UNREADABLE as error:
        raise ValueError(f"{path}: cannot be decoded ({error}); copy the file again") from error


def _refuse_deep(image: Image.Image) -> None:
    if image.mode not in EIGHT_BIT_MODES:
        raise ValueError(f"images must have 8 bits a channel, got mode {image.mode!r}; convert it to 8-bit RGB")


def rasterise(record: ImageRecord, ignore_index: int, *, background: bool = True) -> NDArray[np.uint8]:
    """Paint the annotations of one image: uint8 (H,W).

    Larger annotations (by their COCO `area`) are painted first and smaller ones over them; equal areas keep the
    order of the file. Pixels under no annotation are 0 with a background class and `ignore_index` without.
    Categories that the card ignores paint `ignore_index`. A crowd (`iscrowd`) paints its class: the flag says
    that instances cannot be told apart, which a class map does not ask for. COCO's panoptic and stuff labels
    give such regions their class too; only the instance scores set them aside.

    Raises ValueError, with the annotation id, for a segmentation that cannot be painted.
    """
    height, width = record.height, record.width
    # pycocotools decodes column-major masks: painting in the same order is several times quicker.
    label = np.full((height, width), 0 if background else ignore_index, dtype=np.uint8, order="F")  # (H,W)
    for annotation in sorted(record.annotations, key=lambda each: -each.area):  # sorted() keeps ties in order
        try:
            mask = segmentation_mask(annotation.segmentation, height, width)
        except ValueError as error:
            raise ValueError(f"annotation {annotation.annotation_id}: {error}") from error
        label[mask.view(np.bool_)] = annotation.class_index
    return np.ascontiguousarray(label)


def segmentation_mask(segmentation: Segmentation, height: int, width: int) -> NDArray[np.uint8]:
    """The pixels of one annotation as 0 and 1: uint8 (H,W), column-major."""
    check_segmentation(segmentation, height, width)
    if isinstance(segmentation, dict):
        rle = segmentation
        if isinstance(rle["counts"], list):
            rle = coco_mask.frPyObjects(rle, height, width)
        return np.asarray(coco_mask.decode(rle), dtype=np.uint8)
    # frPyObjects takes a first polygon of four numbers for a box (x, y, w, h): such parts must not reach it.
    parts = [part for part in segmentation if len(part) >= 6]
    if not parts:
        return np.zeros((height, width), dtype=np.uint8, order="F")
    merged = coco_mask.merge(coco_mask.frPyObjects(parts, height, width))
    return np.asarray(coco_mask.decode(merged), dtype=np.uint8)


def check_segmentation(segmentation: Any, height: int, width: int) -> list[str]:
    """Rules that the segmentation bends but can be painted with, as counted warnings.

    Raises ValueError where it cannot be painted, or where pycocotools would crash or read past its buffers:
    no polygon at all, an odd number of coordinates, values that are no numbers or lie absurdly far outside,
    an RLE of another size or one whose runs do not add up to H * W.
    """
    if isinstance(segmentation, dict):
        return _check_rle(segmentation, height, width)
    if not isinstance(segmentation, list):
        raise ValueError(f"segmentation must be polygons or RLE, got {type(segmentation).__name__}")
    if not segmentation:
        raise ValueError("segmentation is empty: no polygon and no RLE; draw it or remove the annotation")
    return sorted({rule for part in segmentation for rule in _check_polygon(part, height, width)})


def _check_polygon(part: Any, height: int, width: int) -> list[str]:
    if not isinstance(part, list):
        raise ValueError(f"a polygon must be a list [x, y, x, y, ...], got {part!r:.60}")
    if len(part) % 2:
        raise ValueError(f"a polygon needs an even number of coordinates, got {len(part)}")
    if len(part) < 6:
        return [TOO_FEW_POINTS]
    try:
        flat = np.asarray(part)
    except ValueError as error:
        raise ValueError(f"a polygon must be a flat list of numbers: {error}") from error
    if flat.ndim != 1 or flat.dtype.kind not in "iuf" or not np.isfinite(flat).all():
        raise ValueError(f"a polygon must be a flat list of finite numbers, got {part!r:.60}")
    limit = 10 * max(height, width)
    if np.abs(flat).max() > limit:  # its outline is walked in steps of a fifth of a pixel: memory would run out
        raise ValueError(f"a polygon's coordinates must lie near the image, within {limit} px, got {part!r:.60}")
    x, y = flat[0::2].astype(np.float64), flat[1::2].astype(np.float64)
    if abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) < 1e-9:
        return [NO_AREA]
    if x.max() <= 0 or y.max() <= 0 or x.min() >= width or y.min() >= height:
        return [OUTSIDE]
    return []


def _check_rle(rle: dict[str, Any], height: int, width: int) -> list[str]:
    size, counts = rle.get("size"), rle.get("counts")
    if not isinstance(size, list | tuple) or list(size) != [height, width]:
        raise ValueError(f"an RLE's size must be the image's [{height}, {width}], got {size!r:.60}")
    if isinstance(counts, list):
        if any(type(run) is not int or not 0 <= run <= height * width for run in counts):
            raise ValueError(f"an RLE's counts must be whole numbers from 0 to H * W, got {counts!r:.60}")
        runs = np.asarray(counts, dtype=np.int64)  # (R,)
    elif isinstance(counts, str | bytes):
        if isinstance(counts, str) and not counts.isascii():
            raise ValueError(f"an RLE's counts string must be ASCII, got {counts!r:.60}")
        runs = rle_runs(counts.encode() if isinstance(counts, str) else counts)
    else:
        raise ValueError(f"an RLE's counts must be a list or a string, got {type(counts).__name__}")
    # A shorter RLE would leave the rest of the decoded mask as uninitialised memory.
    if (runs < 0).any() or runs.sum() != height * width:
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
