"""One pass over a data set: every image decoded once, every annotation painted once, sums kept.

Where masks give the labels, their connected regions stand for annotations.

Processes share the work; each returns sums (one row per image, one per annotation, heat maps per class, pairs of
classes that overlap), so memory does not grow with the number of pixels.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace

import cv2
import numba
import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from analysis.dataset.image_features import named_features
from trainables.data.image_file import read_image
from trainables.data.index import Annotation, ImageRecord, SegIndex
from trainables.data.label_sources import label_source
from trainables.data.raster import in_painting_order, segmentation_rle
from trainables.data.splits.near_duplicates import Hashes, OneHash, gather, hash_image

GRID = 24  # heat maps are GRID x GRID
CHUNK = 48
OVERLAP = 0.1  # share of the smaller annotation that the other covers
DUPLICATE_IOU = 0.9
MAX_PAIRS = 2**22  # of annotations whose overlaps are held at once: an image may have any number
Float = NDArray[np.float64]


@dataclass
class DatasetStatistics:
    """Rows follow the index's order; `annotation_*` follow the images' order. K classes."""

    class_pixels: NDArray[np.int64]  # (N,K)
    ignored_pixels: NDArray[np.int64]  # (N,): void, or under no annotation where there is no background
    features: NDArray[np.float32]  # (N,F), see image_features.FEATURES
    rgb: NDArray[np.float32]  # (N,3) mean, 0 to 255
    hashes: Hashes
    digests: list[str]  # of the files' bytes
    annotation_image: NDArray[np.int64]  # (A,) row of its image
    annotation_class: NDArray[np.int64]  # (A,) K where the card ignores it
    annotation_px: NDArray[np.int64]  # (A,) of its own mask
    annotation_visible_px: NDArray[np.int64]  # (A,) that no later annotation covers
    heat: Float  # (K,GRID,GRID): how often class k lies there, as a share of the images that show it
    overlaps: Counter[tuple[int, int]] = field(default_factory=Counter)  # classes (lower, higher) -> pairs
    duplicates: list[tuple[str, int, int]] = field(default_factory=list)  # image_id, two annotation ids


@dataclass
class _Chunk:
    heat: Float  # (K,GRID,GRID), sums
    shown: NDArray[np.int64]  # (K,) images that show each class
    pixels: list[NDArray[np.int64]] = field(default_factory=list)
    ignored: list[int] = field(default_factory=list)
    features: list[NDArray[np.float32]] = field(default_factory=list)
    rgb: list[NDArray[np.float32]] = field(default_factory=list)
    hashes: list[OneHash] = field(default_factory=list)
    digests: list[str] = field(default_factory=list)
    annotations: list[NDArray[np.int64]] = field(default_factory=list)  # (n,3): class, px, visible px
    overlaps: Counter[tuple[int, int]] = field(default_factory=Counter)
    duplicates: list[tuple[str, int, int]] = field(default_factory=list)


def collect_statistics(index: SegIndex, *, num_workers: int | None = None) -> DatasetStatistics:
    """Collect the statistics of every image. Raises ValueError naming an image that cannot be decoded or painted."""
    workers = num_workers or os.cpu_count() or 1
    starts = range(0, len(index.images), CHUNK)
    parts = [replace(index, images=index.images[s : s + CHUNK], warnings={}) for s in starts]
    if workers == 1 or len(parts) < 3:
        chunks = [_collect(part) for part in parts]
    else:
        with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
            chunks = list(pool.map(_collect, parts))
    return _join(index, chunks)


def _join(index: SegIndex, chunks: Sequence[_Chunk]) -> DatasetStatistics:
    shown = np.sum([c.shown for c in chunks], axis=0)  # (K,)
    heat = np.sum([c.heat for c in chunks], axis=0) / np.maximum(shown, 1)[:, None, None]
    rows = [row for c in chunks for row in c.annotations]
    table = np.concatenate(rows) if rows else np.zeros((0, 3), np.int64)
    return DatasetStatistics(
        class_pixels=np.stack([p for c in chunks for p in c.pixels]),
        ignored_pixels=np.array([n for c in chunks for n in c.ignored], np.int64),
        features=np.stack([f for c in chunks for f in c.features]),
        rgb=np.stack([m for c in chunks for m in c.rgb]),
        hashes=gather([i.image_id for i in index.images], [h for c in chunks for h in c.hashes]),
        digests=[d for c in chunks for d in c.digests],
        annotation_image=np.repeat(np.arange(len(rows)), [len(row) for row in rows]),
        annotation_class=table[:, 0],
        annotation_px=table[:, 1],
        annotation_visible_px=table[:, 2],
        heat=heat,
        overlaps=sum((c.overlaps for c in chunks), Counter()),
        duplicates=[d for c in chunks for d in c.duplicates],
    )


def _collect(part: SegIndex) -> _Chunk:
    """The work of one process: some images, start to end."""
    cv2.setNumThreads(1)
    chunk = _Chunk(heat=np.zeros((part.num_classes, GRID, GRID)), shown=np.zeros(part.num_classes, np.int64))
    for record in part.images:
        image = read_image(record.path)
        chunk.digests.append(hashlib.blake2b(record.path.read_bytes(), digest_size=12).hexdigest())
        chunk.hashes.append(hash_image(image))
        chunk.features.append(named_features(image))
        chunk.rgb.append(np.asarray(cv2.mean(image)[:3], np.float32))
        _look_at_labels(chunk, record, part)
    return chunk


def _look_at_labels(chunk: _Chunk, record: ImageRecord, index: SegIndex) -> None:
    num_classes, ignore_index = index.num_classes, index.ignore_index
    if record.role == "unlabelled":
        chunk.pixels.append(np.zeros(num_classes, np.int64))
        chunk.ignored.append(0)
        chunk.annotations.append(np.zeros((0, 3), np.int64))
        return
    ordered = in_painting_order(label_source(index, record).objects())
    rles = [segmentation_rle(each.segmentation, record.height, record.width) for each in ordered]
    owner = _paint(rles, record)  # (W,H): 0 for none, else 1 + the position in `ordered`
    classes = np.array([a.class_index if a.class_index != ignore_index else num_classes for a in ordered], np.int64)
    table = np.concatenate(([0 if index.background else num_classes], classes))
    visible = np.bincount(owner.ravel(), minlength=len(ordered) + 1)  # (1+n,)
    pixels = np.bincount(table, weights=visible, minlength=num_classes + 1).astype(np.int64)  # (K+1,)
    chunk.pixels.append(pixels[:num_classes])
    chunk.ignored.append(int(pixels[num_classes]))
    areas = np.asarray(coco_mask.area(rles), np.int64) if rles else np.zeros(0, np.int64)
    chunk.annotations.append(np.stack([classes, areas, visible[1:]], axis=1))
    chunk.shown += pixels[:num_classes] > 0
    _add_heat(chunk.heat, owner, table)
    _add_overlaps(chunk, record.image_id, ordered, rles, classes, areas)


def _paint(rles: Sequence[dict[str, object]], record: ImageRecord) -> NDArray[np.int32]:
    """The masks are never decoded: runs lie column by column, so a run is a piece of the transposed map."""
    owner = np.zeros((record.width, record.height), np.int32)
    for position, rle in enumerate(rles, start=1):
        _paint_runs(owner.ravel(), np.frombuffer(rle["counts"], np.uint8), position)  # type: ignore[call-overload]
    return owner


@numba.njit(cache=True, nogil=True, fastmath=False)
def _paint_runs(owner, counts, position):  # type: ignore[no-untyped-def] # (W*H,), (C,) bytes: see raster.rle_runs
    number, shift = 0, 0
    start = last = before = run = np.int64(0)
    for byte in counts:
        bits = np.int64(byte) - 48
        run |= (bits & 0x1F) << shift
        shift += 5
        if bits & 0x20:
            continue
        if bits & 0x10:
            run -= 1 << shift
        if number > 2:
            run += before
        if number % 2:
            owner[start : start + run] = position
        start, number, last, before = start + run, number + 1, run, last
        run, shift = np.int64(0), 0


def _add_heat(heat: Float, owner: NDArray[np.int32], table: NDArray[np.int64]) -> None:
    """Each class's share of each of GRID x GRID cells of the image, whatever its size."""
    columns, rows = (np.arange(size) * GRID // size for size in owner.shape)
    counts = np.zeros((heat.shape[0] + 1, GRID, GRID), np.int64)  # the last: ignored
    _count_cells(owner, table, rows, columns, counts)
    size = np.outer(np.bincount(rows, minlength=GRID), np.bincount(columns, minlength=GRID))
    heat += counts[:-1] / np.maximum(size, 1)


@numba.njit(cache=True, nogil=True, fastmath=False)
def _count_cells(owner, table, rows, columns, counts):  # type: ignore[no-untyped-def] # (W,H), (1+n,), (H,), (W,) -> (K+1,G,G)
    for x in range(owner.shape[0]):
        for y in range(owner.shape[1]):
            counts[table[owner[x, y]], rows[y], columns[x]] += 1


def _add_overlaps(
    chunk: _Chunk,
    image_id: str,
    ordered: Sequence[Annotation],
    rles: Sequence[dict[str, object]],
    classes: NDArray[np.int64],
    areas: NDArray[np.int64],
) -> None:
    num = len(rles)
    block = max(1, MAX_PAIRS // max(num, 1))
    for start in range(0, num, block):
        iou = np.asarray(coco_mask.iou(list(rles[start : start + block]), list(rles), [0] * num))  # (b,n)
        own = areas[start : start + block, None]
        both = iou * (own + areas[None]) / (1 + iou)  # from IoU back to the intersection
        share = both / np.maximum(np.minimum(own, areas[None]), 1)
        for row, j in np.argwhere(np.triu(share > OVERLAP, start + 1)).tolist():
            low, high = sorted((int(classes[start + row]), int(classes[j])))
            chunk.overlaps[low, high] += 1
            if iou[row, j] > DUPLICATE_IOU:
                pair = ordered[start + row].annotation_id, ordered[j].annotation_id
                chunk.duplicates.append((image_id, *pair))
