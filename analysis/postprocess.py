"""Label maps without specks and holes: the smallest component kept a class, and hole filling a class.

Enters: a predicted label map (H,W) uint8 and `Postprocess`, two sizes a class. Leaves: the map after both steps; or how
each step, class and size alone would move the counts that mIoU is made of.

Both steps need the label map alone, so that a bundle, which has no more, agrees to the pixel with the verdict:
1. Specks. An 8-connected component of class k with fewer pixels than `min_component[k]` is removed. Removed pixels that
   touch (8-connected, of whatever classes) are one patch, and a patch takes the class with which it shares the longest
   border, counted in pixel edges to pixels that stay; of equals the lowest class. No order of classes is in it.
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
from dataclasses import dataclass

import cv2
import numba
import numpy as np
from numpy.typing import NDArray

from analysis.bundle import Postprocess

Labels = NDArray[np.uint8]
STEPS = ("min_component", "max_hole")
SIZES = (2.0**-14, 2.0**-12, 2.0**-10, 2.0**-8)  # 16, 64, 256 and 1024 pixels of 512 x 512; 0 is no step


@dataclass(frozen=True)
class Patches:
    """Some components of a mask: patch i is the flat positions `pixels[starts[i] : starts[i + 1]]`."""

    starts: NDArray[np.int64]  # (n+1,)
    pixels: NDArray[np.int64]

    @property
    def sizes_px(self) -> NDArray[np.int64]:
        return np.diff(self.starts)

    def spread(self, value: NDArray[np.generic]) -> NDArray[np.generic]:
        """A value a patch (n,) to one a pixel."""
        return np.repeat(value, self.sizes_px)


def postprocess(label: Labels, steps: Postprocess) -> Labels:
    """A label map (H,W) after both steps; `label` itself where nothing changes."""
    return _without_holes(_without_specks(label, steps.min_component), steps.max_hole)


def alone(label: Labels, truth: Labels, num_classes: int) -> NDArray[np.int64]:
    """How each step of one class and size, alone, moves the counts of an image: (2,K,T,2,K) [step, class, size, what,
    class], `what` 0: right pixels of a class, 1: pixels predicted as it. Only pixels with a label (not 255) count.

    A component that a size removes is removed by all larger sizes, and takes the same class whatever the size: one look
    at the components serves all of them.
    """
    moved = np.zeros((len(STEPS), num_classes, len(SIZES), 2, num_classes), np.int64)
    for k in np.unique(label).tolist():
        specks = _specks(label, k, SIZES[-1])
        if specks.pixels.size:
            mask = (label == k).view(np.uint8)
            _add(moved[0, k], specks, _longest_border(specks.starts, specks.pixels, mask, label, num_classes), label,
                 truth)  # fmt: skip
        holes = _holes(label, k, SIZES[-1])
        if holes.pixels.size:
            _add(moved[1, k], holes, np.full(len(holes.sizes_px), k, np.uint8), label, truth)
    return moved.cumsum(axis=2)


def _add(moved: NDArray[np.int64], patches: Patches, fill: Labels, label: Labels, truth: Labels) -> None:
    """Adds patches to the smallest size that takes them; `moved` (T,2,K), `fill` (n,) what they become."""
    num_sizes, _, num_classes = moved.shape
    limits_px = np.array(SIZES) * label.size
    first = patches.spread(np.searchsorted(limits_px, patches.sizes_px, side="right"))  # fewer pixels than the limit
    before, after, true = label.reshape(-1)[patches.pixels], patches.spread(fill), truth.reshape(-1)[patches.pixels]
    for sign, now in ((-1, before), (1, after)):
        for what, counted in ((0, true == now), (1, true != 255)):
            cells = first[counted] * num_classes + now[counted]
            found = np.bincount(cells, minlength=num_sizes * num_classes).reshape(num_sizes, num_classes)
            moved[:, what] += sign * found


def _without_specks(label: Labels, shares: Sequence[float]) -> Labels:
    removed = np.zeros(label.shape, np.uint8)
    for k, share in enumerate(shares):
        if share > 0:
            removed.reshape(-1)[_specks(label, k, share).pixels] = 1
    if not removed.any() or removed.all():  # all of the image in specks: no pixel stays to take a class from
        return label
    patches = _patches(removed, 8, removed.size + 1)
    out = label.copy()
    fill = _longest_border(patches.starts, patches.pixels, removed, label, len(shares))
    out.reshape(-1)[patches.pixels] = patches.spread(fill)
    return out


def _without_holes(label: Labels, shares: Sequence[float]) -> Labels:
    out = label
    for k, share in enumerate(shares):
        holes = _holes(out, k, share) if share > 0 else None
        if holes is not None and holes.pixels.size:
            out = out.copy() if out is label else out
            out.reshape(-1)[holes.pixels] = k
    return out


def _specks(label: Labels, k: int, share: float) -> Patches:
    return _patches((label == k).view(np.uint8), 8, share * label.size)


def _holes(label: Labels, k: int, share: float) -> Patches:
    return _patches((label != k).view(np.uint8), 4, share * label.size, enclosed=True)


def _patches(mask: Labels, connectivity: int, below_px: float, *, enclosed: bool = False) -> Patches:
    """The components of a mask (H,W) of 0 and 1 with fewer pixels than `below_px`; of these, with `enclosed`, the ones
    that do not reach the image's border."""
    _, ids, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=connectivity, ltype=cv2.CV_32S)
    left, top, width, height, area = (stats[:, column] for column in range(5))
    wanted = area < below_px
    wanted[0] = False  # what the mask leaves out
    if enclosed:
        wanted &= (left > 0) & (top > 0) & (left + width < mask.shape[1]) & (top + height < mask.shape[0])
    starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(area[wanted], dtype=np.int64)])
    pixels = np.empty(int(starts[-1]), np.int64)
    if pixels.size:
        _gather(ids.reshape(-1), np.cumsum(wanted) * wanted, starts[:-1].copy(), pixels)
    return Patches(starts, pixels)


@numba.njit(cache=True, nogil=True)
def _gather(ids, number, at, pixels):  # type: ignore[no-untyped-def] # (P,) components, (C,) 1..n or 0 -> pixels by patch
    for i in range(ids.size):
        patch = number[ids[i]]
        if patch > 0:
            pixels[at[patch - 1]] = i
            at[patch - 1] += 1


@numba.njit(cache=True, nogil=True)
def _longest_border(starts, pixels, mask, label, num_classes):  # type: ignore[no-untyped-def] # -> (n,) uint8
    """The class with which each patch shares the most pixel edges. An edge leads out of a patch where it leads out of
    the mask: no two components of one mask share an edge."""
    height, width = label.shape
    fill = np.empty(starts.size - 1, np.uint8)
    edges = np.zeros(num_classes, np.int64)
    for patch in range(fill.size):
        edges[:] = 0
        for i in range(starts[patch], starts[patch + 1]):
            y, x = pixels[i] // width, pixels[i] % width
            if y > 0 and mask[y - 1, x] == 0:
                edges[label[y - 1, x]] += 1
            if y + 1 < height and mask[y + 1, x] == 0:
                edges[label[y + 1, x]] += 1
            if x > 0 and mask[y, x - 1] == 0:
                edges[label[y, x - 1]] += 1
            if x + 1 < width and mask[y, x + 1] == 0:
                edges[label[y, x + 1]] += 1
        fill[patch] = np.argmax(edges)
    return fill
