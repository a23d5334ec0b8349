"""Removes small components from label maps (H,W) uint8 and fills holes, with two sizes per class (`Postprocess`).

Both steps need the label map alone, so that a bundle, which has no more, agrees to the pixel with the verdict:
1. Specks. An 8-connected component of class k with fewer pixels than `min_component[k]` is removed. Removed pixels that
   touch (8-connected, of whatever classes) are one patch, and a patch takes the class with which it shares the longest
   border, counted in pixel edges to pixels that stay; of equals the lowest class. The order of classes plays no part.
2. Holes. A 4-connected component of pixels of other classes than k that does not reach the image's border, and has
   fewer pixels than `max_hole[k]`, becomes k. Class by class, each on the map that the one before left; of nested holes
   the outermost class wins whatever the order.
Components are 8-connected because what is thin and slanted (a pole, a wire) is 4-connected specks, though right; holes
then are 4-connected, or a slanted line would enclose a region and let it leak at once (Rosenfeld, Connectivity in
digital pictures, J. ACM 1970).

Sizes are shares of the image's own pixels: images of one data set differ in size, and with them the same object.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from analysis.postprocess.components import Regions, adjacent, around, connected
from analysis.postprocess.options import Postprocess

Labels = NDArray[np.uint8]
Mask = NDArray[np.bool_]
STEPS = ("min_component", "max_hole")
SIZES = (2.0**-14, 2.0**-12, 2.0**-10, 2.0**-8)  # 16, 64, 256 and 1024 pixels of 512 x 512; 0 is not a step


class Patches(NamedTuple):
    """Sets of pixels: patch i is the flat positions `pixels[starts[i] : starts[i + 1]]`."""

    starts: NDArray[np.int64]  # (n+1,)
    pixels: NDArray[np.int64]

    @property
    def sizes_px(self) -> NDArray[np.int64]:
        return np.diff(self.starts)

    def spread(self, value: NDArray[np.generic]) -> NDArray[Any]:
        """Repeat one value per patch (n,) for each of its pixels."""
        return np.repeat(value, self.sizes_px)


def postprocess(label: Labels, steps: Postprocess) -> Labels:
    """A label map (H,W) after both steps; `label` itself where nothing changes."""
    return _without_holes(_without_specks(label, steps.min_component), steps.max_hole)


def alone(label: Labels, truth: Labels, num_classes: int) -> NDArray[np.int64]:
    """How each step of one class and size, alone, moves the counts of an image: (2,K,T,2,K) [step, class, size, what,
    class], `what` 0: right pixels of a class, 1: pixels predicted as it. Only pixels with a label (not 255) count.

    A component that a size removes is removed by all larger sizes, and takes the same class whatever the size: one
    pass over the components serves all of them.
    """
    moved = np.zeros((len(STEPS), num_classes, len(SIZES), 2, num_classes), np.int64)
    limit_px = SIZES[-1] * label.size
    regions = Regions(*connected(label, True))
    small = regions.areas_px < limit_px
    if small.any():
        specks = _gathered(regions.ids, small)
        fill = _longest_border(*specks, regions.ids, label, num_classes)
        _add(moved[0], specks, regions.classes[small], fill, label, truth)
    regions = Regions(*connected(label, False))
    pairs = adjacent(regions.ids)
    for k in np.unique(label).tolist():
        inside, hole = _holes(regions, pairs, k, limit_px)
        if inside.any():
            holes = _gathered(regions.ids, inside, hole)
            fill = np.full(len(holes.sizes_px), k, np.uint8)
            _add(moved[1], holes, fill, fill, label, truth)
    return moved.cumsum(axis=2)


def _add(moved: NDArray[np.int64], patches: Patches, of: Labels, fill: Labels, label: Labels, truth: Labels) -> None:
    """Adds patches to the smallest size that takes them; `moved` (K,T,2,K), a patch belongs to the step of class `of`
    (n,) and becomes `fill` (n,)."""
    num_classes, num_sizes = moved.shape[:2]
    first = np.searchsorted(np.array(SIZES) * label.size, patches.sizes_px, side="right")  # fewer pixels than the limit
    option = patches.spread(of.astype(np.int64) * num_sizes + first)
    before, after, true = label.reshape(-1)[patches.pixels], patches.spread(fill), truth.reshape(-1)[patches.pixels]
    for sign, now in ((-1, before), (1, after)):
        for what, counted in ((0, true == now), (1, true != 255)):
            cells = option[counted] * num_classes + now[counted]
            found = np.bincount(cells, minlength=num_classes * num_sizes * num_classes)
            moved[:, :, what] += sign * found.reshape(num_classes, num_sizes, num_classes)


def _without_specks(label: Labels, shares: Sequence[float]) -> Labels:
    if not any(shares):
        return label
    regions = Regions(*connected(label, True))
    small = regions.areas_px < np.array(shares)[regions.classes] * label.size  # (R,)
    if not small.any() or small.all():  # all of the image in specks: no pixel stays to take a class from
        return label
    removed = Regions(*connected(small.astype(np.uint8)[regions.ids], True))
    patches = _gathered(removed.ids, removed.classes == 1)
    out = label.copy()
    out.reshape(-1)[patches.pixels] = patches.spread(_longest_border(*patches, removed.ids, label, len(shares)))
    return out


def _without_holes(label: Labels, shares: Sequence[float]) -> Labels:
    if not any(shares):
        return label
    regions = Regions(*connected(label, False))
    pairs, before = adjacent(regions.ids), regions.classes.copy()
    for k in np.flatnonzero(shares).tolist():
        inside, _ = _holes(regions, pairs, k, shares[k] * label.size)
        regions.classes[inside] = k
    return label if np.array_equal(regions.classes, before) else regions.classes[regions.ids]


def _holes(regions: Regions, pairs: NDArray[np.int32], k: int, below_px: float) -> tuple[Mask, NDArray[np.int32]]:
    """(R,), (R,): is a region part of a hole in class k of fewer pixels than `below_px`; and of which."""
    hole, sizes_px, reaches = around(pairs, regions.classes, regions.areas_px, regions.rim, k)
    return (regions.classes != k) & ~reaches[hole] & (sizes_px[hole] < below_px), hole


def _gathered(ids: NDArray[np.int32], wanted: Mask, patch_of: NDArray[np.int32] | None = None) -> Patches:
    """The pixels of the wanted regions (R,), one patch per region or per value of `patch_of` (R,)."""
    number = np.full(len(wanted), -1)
    if patch_of is None:
        number[wanted] = np.arange(int(wanted.sum()))
    else:
        number[wanted] = np.unique(patch_of[wanted], return_inverse=True)[1]
    return Patches(*_gather(ids.reshape(-1), number, int(number.max()) + 1))


@numba.njit(cache=True, nogil=True, fastmath=False)
def _gather(ids, number, num):  # type: ignore[no-untyped-def] # (P,) regions, (R,) their patches or -1 -> starts, pixels
    starts = np.zeros(num + 1, np.int64)
    for i in range(ids.size):
        starts[number[ids[i]] + 1] += 1  # those of no patch land in starts[0]
    starts[0] = 0
    starts = np.cumsum(starts)
    at, pixels = starts.copy(), np.empty(starts[num], np.int64)
    for i in range(ids.size):
        patch = number[ids[i]]
        if patch >= 0:
            pixels[at[patch]] = i
            at[patch] += 1
    return starts, pixels


@numba.njit(cache=True, nogil=True, fastmath=False)
def _longest_border(starts, pixels, ids, label, num_classes):  # type: ignore[no-untyped-def] # -> (n,) uint8
    """The class with which each patch, a region of `ids` (H,W), shares the most pixel edges; the lowest of equals."""
    height, width = label.shape
    fill = np.empty(starts.size - 1, np.uint8)
    edges = np.zeros(num_classes, np.int64)
    for patch in range(fill.size):
        edges[:] = 0
        for i in range(starts[patch], starts[patch + 1]):
            y, x = pixels[i] // width, pixels[i] % width
            mine = ids[y, x]
            if y > 0 and ids[y - 1, x] != mine:
                edges[label[y - 1, x]] += 1
            if y + 1 < height and ids[y + 1, x] != mine:
                edges[label[y + 1, x]] += 1
            if x > 0 and ids[y, x - 1] != mine:
                edges[label[y, x - 1]] += 1
            if x + 1 < width and ids[y, x + 1] != mine:
                edges[label[y, x + 1]] += 1
        fill[patch] = np.argmax(edges)
    return fill
