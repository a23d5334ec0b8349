"""The connected components of a label map, of all classes in one pass, and which of them a class encloses.

`Regions` numbers R sets of connected pixels of one class in a label map (H,W) uint8. Union by the lower number and two
passes (Wu, Otoo & Suzuki, Optimizing two-pass connected-component labeling algorithms, 2009): all classes cost as much
as one.
"""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray


class Regions(NamedTuple):
    """Regions are numbered in the order in which a scan of the rows meets them."""

    ids: NDArray[np.int32]  # (H,W)
    classes: NDArray[np.uint8]  # (R,)
    areas_px: NDArray[np.int64]  # (R,)
    rim: NDArray[np.bool_]  # (R,) reaches the image's border


@numba.njit(cache=True, nogil=True, fastmath=False)
def _root(parent, a):  # type: ignore[no-untyped-def]
    while parent[a] != a:
        parent[a] = parent[parent[a]]
        a = parent[a]
    return a


@numba.njit(cache=True, nogil=True, fastmath=False)
def _join(parent, a, b):  # type: ignore[no-untyped-def] # -> the lower root, which becomes both's
    if a == b:
        return a
    a, b = _root(parent, a), _root(parent, b)
    if a < b:
        parent[b] = a
        return a
    parent[a] = b
    return b


@numba.njit(cache=True, nogil=True, fastmath=False)
def connected(label, diagonal):  # type: ignore[no-untyped-def] # (H,W) -> the fields of Regions
    """Regions that are 4-connected, or with `diagonal` 8-connected."""
    height, width = label.shape
    ids = np.empty((height, width), np.int32)
    parent = np.empty(label.size, np.int32)
    num = 0
    for y in range(height):
        for x in range(width):
            here, mine = label[y, x], np.int32(-1)
            beside = x > 0 and label[y, x - 1] == here
            if beside:
                mine = ids[y, x - 1]
            if y > 0:
                if label[y - 1, x] == here:  # its own neighbours in that row are of its region already
                    mine = _join(parent, mine, ids[y - 1, x]) if beside else ids[y - 1, x]
                elif diagonal:
                    if not beside and x > 0 and label[y - 1, x - 1] == here:
                        mine = ids[y - 1, x - 1]
                    if x + 1 < width and label[y - 1, x + 1] == here:
                        mine = _join(parent, mine, ids[y - 1, x + 1]) if mine >= 0 else ids[y - 1, x + 1]
            if mine < 0:
                mine = np.int32(num)
                parent[num] = num
                num += 1
            ids[y, x] = mine
    count = 0
    for i in range(num):  # a parent has a lower number, so it has its last one already
        if parent[i] == i:
            parent[i] = count
            count += 1
        else:
            parent[i] = parent[parent[i]]
    classes, areas_px = np.empty(count, np.uint8), np.zeros(count, np.int64)
    rim = np.zeros(count, np.bool_)
    for y in range(height):
        for x in range(width):
            mine = parent[ids[y, x]]
            ids[y, x] = mine
            classes[mine] = label[y, x]
            areas_px[mine] += 1
            if y == 0 or x == 0 or y == height - 1 or x == width - 1:
                rim[mine] = True
    return ids, classes, areas_px, rim


@numba.njit(cache=True, nogil=True, fastmath=False)
def adjacent(ids):  # type: ignore[no-untyped-def] # (H,W) -> (E,2) int32
    """Pairs of regions that share a pixel edge; a pair may come more than once."""
    height, width = ids.shape
    pairs = np.empty((1024, 2), np.int32)
    num = 0
    for y in range(height):
        for x in range(width):
            mine = ids[y, x]
            for across in range(2):
                if (x + 1 == width) if across else (y + 1 == height):
                    continue
                other = ids[y, x + 1] if across else ids[y + 1, x]
                if other == mine or (num > 0 and pairs[num - 1, 0] == mine and pairs[num - 1, 1] == other):
                    continue
                if num == len(pairs):
                    pairs = np.concatenate((pairs, np.empty_like(pairs)))
                pairs[num, 0], pairs[num, 1] = mine, other
                num += 1
    return pairs[:num].copy()


@numba.njit(cache=True, nogil=True, fastmath=False)
def around(pairs, classes, areas_px, rim, k):  # type: ignore[no-untyped-def] # (E,2), (R,) x3 -> (R,) x3
    """Regions of other classes than k, joined where they touch: each region's joint region, named by its lowest
    member, and for that name the area in pixels and whether it reaches the image's border."""
    joint = np.arange(len(classes)).astype(np.int32)
    for e in range(len(pairs)):
        a, b = pairs[e, 0], pairs[e, 1]
        if classes[a] != k and classes[b] != k:
            _join(joint, a, b)
    sizes_px, reaches = np.zeros_like(areas_px), np.zeros_like(rim)
    for r in range(len(classes)):
        joint[r] = joint[joint[r]]
        sizes_px[joint[r]] += areas_px[r]
        reaches[joint[r]] |= rim[r]
    return joint, sizes_px, reaches
