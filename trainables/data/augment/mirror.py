"""Mirrors images and labels; classes that mean a side change places, as a left shoe becomes a right one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import albumentations as A
import cv2
import numpy as np
from albumentations.core.type_definitions import Targets
from numpy.typing import NDArray

from trainables.data.augment.crop import Pixels, Scalar
from trainables.data.augment.source_map import swapped
from trainables.data.flip_pairs import swap_table

AXES = {"horizontal": A.HorizontalFlip, "vertical": A.VerticalFlip}


def mirror_step(axis: str, p: float, pairs: Sequence[Sequence[int]]) -> A.DualTransform:
    """The flip itself where no classes change places."""
    return SwappingFlip(axis, [list(pair) for pair in pairs], p=p) if pairs else AXES[axis](p=p)


class SwappingFlip(A.DualTransform):
    """A flip of image (H,W,3) and label (H,W) in which the classes of each pair change places."""

    _targets = (Targets.IMAGE, Targets.MASK)

    def __init__(self, axis: str, pairs: Sequence[Sequence[int]], p: float = 0.5) -> None:
        super().__init__(p=p)
        self.axis, self.pairs = axis, pairs
        self._flip = AXES[axis](p=1.0)
        self._table = swap_table(tuple((first, second) for first, second in pairs))

    def apply(self, img: Pixels, **params: Any) -> Pixels:
        """(H,W,3) -> (H,W,3)."""
        return np.asarray(self._flip.apply(img, **params), np.uint8)

    def apply_to_mask(self, mask: NDArray[Scalar], **params: Any) -> NDArray[Scalar]:
        """(H,W) -> (H,W). A map of source pixels notes that classes changed places there."""
        flipped = np.ascontiguousarray(self._flip.apply(mask, **params))
        if mask.dtype != np.uint8:
            return np.asarray(swapped(flipped), mask.dtype)
        return np.asarray(cv2.LUT(flipped, self._table), mask.dtype)
