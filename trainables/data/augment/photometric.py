"""Operators on colours and noise that albumentations lacks, or has slowly. The label is never touched.

Images are (H,W,3) uint8 RGB.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import albumentations as A
import cv2
import numpy as np
from numpy.typing import NDArray

from trainables.data.augment.crop import Pixels

TABLE_SIZE = 2**22  # normal numbers, 8 MiB as int16
TABLE_UNIT = 4096  # 1.0 in the table
HUES = 180  # OpenCV's hue in a byte


class PhotoMetricDistortion(A.ImageOnlyTransform):
    """mmsegmentation's (after SSD, Liu et al. 2016): brightness, contrast, saturation and hue, each with probability
    0.5, contrast before or after the other two; every step rounds down to bytes, as there."""

    def __init__(
        self,
        brightness_delta: int = 32,
        contrast_limit: float = 0.5,
        saturation_limit: float = 0.5,
        hue_delta: int = 18,
        p: float = 1.0,
    ) -> None:
        super().__init__(p=p)
        self.brightness_delta = brightness_delta
        self.contrast_limit = contrast_limit
        self.saturation_limit = saturation_limit
        self.hue_delta = hue_delta

    def get_params(self) -> dict[str, Any]:
        """The draws; a step that is not taken has None."""
        draw = self.py_random.uniform

        def coin() -> bool:
            return bool(self.py_random.random() < 0.5)

        return {
            "brightness": draw(-self.brightness_delta, self.brightness_delta) if coin() else None,
            "contrast_first": coin(),
            "contrast": 1 + draw(-self.contrast_limit, self.contrast_limit) if coin() else None,
            "saturation": 1 + draw(-self.saturation_limit, self.saturation_limit) if coin() else None,
            "hue": self.py_random.randint(-self.hue_delta, self.hue_delta) if coin() else None,
        }

    def apply(
        self,
        img: Pixels,
        brightness: float | None,
        contrast_first: bool,
        contrast: float | None,
        saturation: float | None,
        hue: int | None,
        **_: Any,
    ) -> Pixels:
        """All that comes before and after the trip to HSV is one table look-up each."""
        table = np.arange(256, dtype=np.uint8)
        if brightness is not None:
            table = scale_bytes(table, 1.0, brightness)
        if contrast is not None and contrast_first:
            table = scale_bytes(table, contrast, 0.0)
        out = cv2.LUT(img, table) if brightness is not None or contrast is not None else img
        if saturation is not None or hue is not None:
            identity = np.arange(256, dtype=np.uint8)
            of_hue = identity if hue is None else ((identity.astype(int) + hue) % HUES).astype(np.uint8)
            of_saturation = identity if saturation is None else scale_bytes(identity, saturation, 0.0)
            hsv = cv2.cvtColor(out, cv2.COLOR_RGB2HSV)
            hsv = cv2.LUT(hsv, np.dstack([of_hue, of_saturation, identity]))
            out = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
        if contrast is not None and not contrast_first:
            out = cv2.LUT(out, scale_bytes(np.arange(256, dtype=np.uint8), contrast, 0.0))
        return np.asarray(out, np.uint8)


def scale_bytes(values: Pixels, factor: float, shift: float) -> Pixels:
    """values * factor + shift, held to 0..255 and rounded down."""
    return np.asarray(np.clip(values.astype(np.float32) * factor + shift, 0, 255), np.uint8)


class TableNoise(A.ImageOnlyTransform):
    """Gaussian noise whose numbers are a random window of a fixed table of 4 million: an eighth of the time of drawing
    them. Equal windows are drawn about once in as many samples."""

    def __init__(self, std_min: float = 0.01, std_max: float = 0.1, p: float = 0.5) -> None:
        super().__init__(p=p)
        self.std_min = std_min
        self.std_max = std_max

    def get_params(self) -> dict[str, Any]:
        """std: of the full range; start: of the window, as a share of the table."""
        return {"std": self.py_random.uniform(self.std_min, self.std_max), "start": self.py_random.random()}

    def apply(self, img: Pixels, std: float, start: float, **_: Any) -> Pixels:
        table = normal_table(max(TABLE_SIZE, 2 * img.size))
        begin = int(start * (len(table) - img.size))
        noise = table[begin : begin + img.size].reshape(img.shape)
        return np.asarray(cv2.addWeighted(img, 1.0, noise, 255 * std / TABLE_UNIT, 0.0, dtype=cv2.CV_8U), np.uint8)


@cache
def normal_table(size: int) -> NDArray[np.int16]:
    """Standard normal numbers times TABLE_UNIT, held to 8 standard deviations; the same in every process."""
    numbers = np.random.default_rng(20211).standard_normal(size, dtype=np.float32)
    return np.clip(np.rint(numbers * TABLE_UNIT), -32768, 32767).astype(np.int16)
