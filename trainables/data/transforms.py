"""What happens to an image and its label between the cache and the batch.

Enters: image (H,W,3) uint8 RGB and label (H,W) uint8. Leaves: both at (crop_px, crop_px): a window of the image,
resized ONCE to the random scale (bilinear; labels nearest), padded where the image is smaller, flipped, its colours
changed. Image and label always move together; padding is IGNORE_INDEX in the label, the ImageNet mean in the image.

Two properties of albumentations 2.0.8 matter here. Its import asks the network for a newer version unless
NO_ALBUMENTATIONS_UPDATE is set, so it is set below. And `Compose.set_random_seed` gives every transform a generator of
its own from the SAME seed, so two flips at p = 0.5 would always agree: `reseed` lets all draw from one stream.
"""

from __future__ import annotations

import os
import random
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from trainables.data.index import IGNORE_INDEX
from trainables.recipe import Augmentation

os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"

import albumentations as A
from albumentations.core.type_definitions import Targets

Pixels = npt.NDArray[np.uint8]

PAD_RGB = (124, 116, 104)  # the ImageNet mean: about zero once a backbone has normalised it
STRIDE_PX = 32  # the coarsest feature of the pyramid


class ScaledCrop(A.DualTransform):
    """A random window of the source that a random scale turns into size_px x size_px.

    Resizing the whole image by f and cropping size_px out of it reads size_px / f source pixels a side; so only those
    are cut out and resized. That gives the same pixels up to the interpolation at the window's rim, with f rounded so
    that the window has whole pixels. A window longer than the image sticks out of it at random, and is padded there.
    """

    _targets = (Targets.IMAGE, Targets.MASK)

    def __init__(self, size_px: int, short_px: int | None, scale_min: float, scale_max: float, p: float = 1.0) -> None:
        super().__init__(p=p)
        self.size_px = size_px
        self.short_px = short_px
        self.scale_min = scale_min
        self.scale_max = scale_max

    def get_params_dependent_on_data(
        self,
        params: dict[str, Any],
        data: dict[str, Any],  # noqa: ARG002  (albumentations passes it by name)
    ) -> dict[str, Any]:
        """Draw the window: its side and its corner (top, left), both in source pixels; corners may be negative."""
        height, width = params["shape"][:2]
        factor = _base_factor(height, width, self.short_px) * self.py_random.uniform(self.scale_min, self.scale_max)
        window_px = max(1, round(self.size_px / factor))
        corner = []
        for side_px in (height, width):
            spare_px = side_px - window_px
            corner.append(self.py_random.randint(min(0, spare_px), max(0, spare_px)))
        return {"window_px": window_px, "top": corner[0], "left": corner[1]}

    def apply(self, img: Pixels, window_px: int, top: int, left: int, **_: Any) -> Pixels:
        """(H,W,3) -> (size_px,size_px,3), bilinear."""
        return self._cut(img, window_px, top, left, cv2.INTER_LINEAR, PAD_RGB)

    def apply_to_mask(self, mask: Pixels, window_px: int, top: int, left: int, **_: Any) -> Pixels:
        """(H,W) -> (size_px,size_px), the nearest pixel by centres, as `apply` counts them."""
        return self._cut(mask, window_px, top, left, cv2.INTER_NEAREST_EXACT, IGNORE_INDEX)

    def _cut(
        self, source: Pixels, window_px: int, top: int, left: int, interpolation: int, fill: int | tuple[int, ...]
    ) -> Pixels:
        size = self.size_px
        factor = size / window_px
        rows, to_rows = _overlap(source.shape[0], window_px, top, factor)
        columns, to_columns = _overlap(source.shape[1], window_px, left, factor)
        shape = (to_columns.stop - to_columns.start, to_rows.stop - to_rows.start)
        piece = cv2.resize(source[rows, columns], shape, interpolation=interpolation)
        if shape == (size, size):
            return np.asarray(piece, np.uint8)
        out = np.empty((size, size, *source.shape[2:]), np.uint8)
        out[:] = fill
        out[to_rows, to_columns] = piece
        return out


def _overlap(side_px: int, window_px: int, start: int, factor: float) -> tuple[slice, slice]:
    """The part of a window that lies on the image: in the source, and in the output (at least one pixel)."""
    low, high = max(start, 0), min(start + window_px, side_px)
    to_low = min(round((low - start) * factor), round(window_px * factor) - 1)
    to_high = max(to_low + 1, round((high - start) * factor))
    return slice(low, high), slice(to_low, to_high)


def _base_factor(height: int, width: int, short_px: int | None) -> float:
    """The resize that `short_px` asks of every image, before any random or test-time scale."""
    return 1.0 if short_px is None else short_px / min(height, width)


def train_transform(aug: Augmentation, seed: int) -> A.Compose:
    """The training pipeline of a recipe: call it with image= (H,W,3) and mask= (H,W), `reseed` it before each sample.

    Colours come last: they then touch crop_px x crop_px pixels, whatever the source's size.
    """
    steps: list[A.BasicTransform] = [ScaledCrop(aug.crop_px, aug.short_px, aug.scale_min, aug.scale_max)]
    if aug.hflip_p > 0:
        steps.append(A.HorizontalFlip(p=aug.hflip_p))
    if aug.vflip_p > 0:
        steps.append(A.VerticalFlip(p=aug.vflip_p))
    if aug.colour_p > 0:
        steps.append(
            A.ColorJitter(
                brightness=(0.7, 1.3), contrast=(0.7, 1.3), saturation=(0.6, 1.4), hue=(-0.04, 0.04), p=aug.colour_p
            )
        )
    pipeline = A.Compose(steps)
    reseed(pipeline, seed)
    return pipeline


def reseed(pipeline: A.Compose, *words: int) -> None:
    """Make the pipeline's next draws a function of `words` (integers from 0) alone; all steps share one stream."""
    seeds = np.random.SeedSequence(words)
    pipeline.set_random_state(np.random.default_rng(seeds), random.Random(int(seeds.generate_state(1, np.uint64)[0])))


def view_size(height: int, width: int, short_px: int | None, scale: float) -> tuple[int, int]:
    """(h, w) of a test-time view: each side the multiple of 32 nearest to `scale` times the side after `short_px`.

    The logit grid then covers the image exactly, and one bilinear resize takes it to the label's size.
    """
    factor = _base_factor(height, width, short_px) * scale
    return _nearest_stride(height * factor), _nearest_stride(width * factor)


def _nearest_stride(side: float) -> int:
    return max(STRIDE_PX, int(side / STRIDE_PX + 0.5) * STRIDE_PX)
