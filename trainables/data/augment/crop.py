"""Cuts windows of an image at a random scale and makes crops of them.

Images (H,W,3) uint8 RGB and labels (H,W) uint8 may be memory-mapped: only the window's pixels are touched. A crop is
padded with the ImageNet mean and IGNORE_INDEX where the window sticks out.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any, TypeVar

import albumentations as A
import cv2
import numpy as np
import numpy.typing as npt
from albumentations.core.type_definitions import Targets

from trainables.data.index import IGNORE_INDEX

Pixels = npt.NDArray[np.uint8]
Scalar = TypeVar("Scalar", np.uint8, np.int32)  # of labels, and of a map of source pixels that moves as a label does

PAD_RGB = (124, 116, 104)  # the ImageNet mean: about zero once a backbone has normalised it
CAP_TRIES = 10  # mmsegmentation's: a cap that no window meets must not hold the loader up
CAP_PIXELS = 64  # per side, sampled to estimate a window's class shares: their error is a few hundredths


@dataclass(frozen=True)
class Window:
    """A rectangle of the source and what it is resized to; top and left may lie outside the source."""

    top: int
    left: int
    height_px: int
    width_px: int
    to_height_px: int
    to_width_px: int

    def cut_image(self, image: Pixels) -> Pixels:
        """(H,W,3) -> (h,w,3), bilinear."""
        return self._cut(image, cv2.INTER_LINEAR, PAD_RGB)

    def cut_label(self, label: npt.NDArray[Scalar]) -> npt.NDArray[Scalar]:
        """(H,W) -> (h,w): the nearest pixel by centres, as `cut_image` counts them."""
        return self._cut(label, cv2.INTER_NEAREST_EXACT, IGNORE_INDEX)

    def _cut(self, source: npt.NDArray[Scalar], interpolation: int, fill: int | tuple[int, ...]) -> npt.NDArray[Scalar]:
        size: tuple[int, int] = (self.to_height_px, self.to_width_px)
        rows, to_rows = _overlap(source.shape[0], self.height_px, self.top, self.to_height_px)
        columns, to_columns = _overlap(source.shape[1], self.width_px, self.left, self.to_width_px)
        shape = (to_columns.stop - to_columns.start, to_rows.stop - to_rows.start)
        piece = cv2.resize(source[rows, columns], shape, interpolation=interpolation)
        if piece.shape[:2] == size:
            return np.asarray(piece, source.dtype)
        out = np.empty((*size, *source.shape[2:]), source.dtype)
        out[:] = fill
        out[to_rows, to_columns] = piece
        return out


def draw_window(shape: tuple[int, int], size_px: tuple[int, int], factor: float, generator: random.Random) -> Window:
    """A window that a resize by `factor` turns into size_px (h,w), anywhere on an image of `shape` (H,W).

    Resizing the whole image and cropping size_px out of it would give the same pixels up to the interpolation at the
    window's rim; the factor is rounded so that the window has whole pixels. A window longer than the image sticks out
    of it at random.
    """
    sides = [max(1, round(to_px / factor)) for to_px in size_px]
    corner = []
    for side_px, window_px in zip(shape, sides, strict=True):
        spare_px = side_px - window_px
        corner.append(generator.randint(min(0, spare_px), max(0, spare_px)))
    return Window(corner[0], corner[1], sides[0], sides[1], *size_px)


def _overlap(side_px: int, window_px: int, start: int, to_px: int) -> tuple[slice, slice]:
    """The part of a window that lies on the image: in the source, and in the output (at least one pixel)."""
    factor = to_px / window_px
    low, high = max(start, 0), min(start + window_px, side_px)
    to_low = min(round((low - start) * factor), to_px - 1)
    to_high = max(to_low + 1, round((high - start) * factor))
    return slice(low, high), slice(to_low, to_high)


def base_factor(height: int, width: int, short_px: int | None) -> float:
    """The resize that `short_px` asks of every image, before any random or test-time scale."""
    return 1.0 if short_px is None else short_px / min(height, width)


def largest_share(label: Pixels, window: Window) -> float:
    """The largest class's share of the labelled pixels in a window, from at most 64 x 64 of them; 1.0 for one class."""
    rows, _ = _overlap(label.shape[0], window.height_px, window.top, window.to_height_px)
    columns, _ = _overlap(label.shape[1], window.width_px, window.left, window.to_width_px)
    steps = [max(1, (part.stop - part.start) // CAP_PIXELS) for part in (rows, columns)]
    seen = label[rows.start : rows.stop : steps[0], columns.start : columns.stop : steps[1]]
    counts = np.bincount(seen.ravel(), minlength=256)[:IGNORE_INDEX]
    return float(counts.max() / max(1, counts.sum())) if counts.any() else 1.0


class ScaledCrop(A.DualTransform):
    """A random window of the source that a random scale turns into size_px x size_px, read and resized once.

    While one class covers `cat_max_ratio` of the window or more, or it shows one class alone, another is drawn, ten
    times at most (mmsegmentation's RandomCrop).
    """

    _targets = (Targets.IMAGE, Targets.MASK)

    def __init__(
        self,
        size_px: int,
        short_px: int | None,
        scale_min: float,
        scale_max: float,
        cat_max_ratio: float = 1.0,
        p: float = 1.0,
    ) -> None:
        super().__init__(p=p)
        self.size_px = size_px
        self.short_px = short_px
        self.scale_min = scale_min
        self.scale_max = scale_max
        self.cat_max_ratio = cat_max_ratio

    def get_params_dependent_on_data(self, params: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
        """Draw the window: its side and its corner (top, left), both in source pixels; corners may be negative."""
        height, width = params["shape"][:2]
        # the scale is drawn once: drawing it anew as well would favour the scales that meet the cap
        factor = base_factor(height, width, self.short_px) * self.py_random.uniform(self.scale_min, self.scale_max)
        size_px = (self.size_px, self.size_px)
        window = draw_window((height, width), size_px, factor, self.py_random)
        for _ in range(CAP_TRIES if self.cat_max_ratio < 1.0 else 0):
            if largest_share(data["mask"], window) < self.cat_max_ratio:
                break
            window = draw_window((height, width), size_px, factor, self.py_random)
        return {"window_px": window.height_px, "top": window.top, "left": window.left}

    def apply(self, img: Pixels, window_px: int, top: int, left: int, **_: Any) -> Pixels:
        """(H,W,3) -> (size_px,size_px,3)."""
        return Window(top, left, window_px, window_px, self.size_px, self.size_px).cut_image(img)

    def apply_to_mask(
        self, mask: npt.NDArray[Scalar], window_px: int, top: int, left: int, **_: Any
    ) -> npt.NDArray[Scalar]:
        """(H,W) -> (size_px,size_px)."""
        return Window(top, left, window_px, window_px, self.size_px, self.size_px).cut_label(mask)
