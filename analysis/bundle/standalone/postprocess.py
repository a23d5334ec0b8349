"""Small components removed from a label map, and holes filled, as the verdict did it; load.py beside this file uses it.

An 8-connected component of class k with fewer pixels than its share of the image is removed; what is removed and
touches becomes the class of its longest border, of equals the lowest. Then, class by class, what a class encloses and
is smaller than its share becomes that class (4-connected, clear of the image's border).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Label = NDArray[np.uint8]  # (H,W)
Ids = NDArray[np.int64]
STEPS = ((0, 1), (1, 0))  # to the right, down
DIAGONALS = ((1, 1), (1, -1))


def postprocess(label: Label, min_component: Sequence[float], max_hole: Sequence[float]) -> Label:
    """`min_component`, `max_hole` (K,): shares of the image's pixels; 0 leaves a class alone."""
    return without_holes(without_specks(label, np.array(min_component)), np.array(max_hole))


def without_specks(label: Label, shares: NDArray[np.float64]) -> Label:
    ids = components(label, (*STEPS, *DIAGONALS))
    classes, areas_px = _classes(label, ids), np.bincount(ids.reshape(-1))
    small = areas_px < shares[classes] * label.size
    if not small.any() or small.all():  # of an image of specks alone, no pixel stays to take a class from
        return label
    gone = small[ids]
    patches = components(gone, (*STEPS, *DIAGONALS))
    borders = np.zeros((int(patches.max()) + 1, len(shares)), np.int64)
    for step in STEPS:
        for inside, beyond in (_beside(step), _beside(step)[::-1]):
            edge = gone[inside] & ~gone[beyond]
            np.add.at(borders, (patches[inside][edge], label[beyond][edge]), 1)
    return np.where(gone, borders.argmax(1)[patches], label).astype(np.uint8)


def without_holes(label: Label, shares: NDArray[np.float64]) -> Label:
    ids = components(label, STEPS)
    classes, areas_px = _classes(label, ids), np.bincount(ids.reshape(-1))
    rim = np.isin(np.arange(len(classes)), np.concatenate([ids[0], ids[-1], ids[:, 0], ids[:, -1]]))
    pairs = [np.stack([ids[one], ids[other]], -1).reshape(-1, 2) for one, other in map(_beside, STEPS)]
    first, second = np.unique(np.concatenate(pairs), axis=0).T
    for k in np.flatnonzero(shares):
        apart = (classes[first] != k) & (classes[second] != k)
        joint = joined(len(classes), first[apart], second[apart])
        sizes_px, reaches = np.bincount(joint, areas_px)[joint], np.bincount(joint, rim)[joint] > 0
        classes[(classes != k) & ~reaches & (sizes_px < shares[k] * label.size)] = k
    return classes[ids]


def components(values: NDArray[Any], steps: Sequence[tuple[int, int]]) -> Ids:
    """(H,W) -> (H,W): the number of each pixel's component of equal values, neighbours by `steps`."""
    pixels = np.arange(values.size).reshape(values.shape)
    ends: list[list[Ids]] = [[], []]
    for one, other in map(_beside, steps):
        equal = values[one] == values[other]
        ends[0].append(pixels[one][equal])
        ends[1].append(pixels[other][equal])
    return joined(values.size, *map(np.concatenate, ends)).reshape(values.shape)


def joined(count: int, first: Ids, second: Ids) -> Ids:
    """(count,): the number of each node's set, where the edges (first, second) join sets."""
    lowest = np.arange(count)
    while len(first):
        low, high = np.minimum(lowest[first], lowest[second]), np.maximum(lowest[first], lowest[second])
        np.minimum.at(lowest, high, low)
        while (lowest[lowest] != lowest).any():
            lowest = lowest[lowest]
        left = lowest[first] != lowest[second]
        first, second = first[left], second[left]
    return np.unique(lowest, return_inverse=True)[1]


def _beside(step: tuple[int, int]) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """The pixels of an image that have a neighbour at (down, right), and these neighbours."""
    ends = [(slice(max(0, -by), -by if by > 0 else None), slice(max(0, by), by if by < 0 else None)) for by in step]
    return (ends[0][0], ends[1][0]), (ends[0][1], ends[1][1])


def _classes(label: Label, ids: Ids) -> Label:
    classes = np.empty(int(ids.max()) + 1, np.uint8)
    classes[ids] = label
    return classes
