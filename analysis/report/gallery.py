"""Hold-out images beside their truth and prediction, small enough to lie inside one HTML file.

Pictures become data URIs (JPEG for photographs, palette PNG for labels) of at most 320 pixels per side.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow

from analysis.report.palette import IGNORED, Colours, png_palette
from trainables.metrics import confusion, iou

MAX_SIDE_PX = 320
JPEG_QUALITY = 82
IGNORE_INDEX = 255
Image = NDArray[np.uint8]


@dataclass(frozen=True)
class GalleryItem:
    """A hold-out image: image (H,W,3) RGB, truth and prediction (H,W), all uint8; 255 is ignored."""

    image_id: str
    image: Image
    truth: Image
    prediction: Image
    miou: float


@dataclass(frozen=True)
class Picture:
    """A gallery item as the page needs it; `agreement` is the share of labelled pixels that are right, `ious` (K,) the
    IoU of each class that the image shows."""

    image_id: str
    miou: float
    agreement: float
    ious: tuple[float | None, ...]
    width_px: int
    height_px: int
    image_uri: str
    truth_uri: str
    prediction_uri: str


def picture(item: GalleryItem, colours: Colours) -> Picture:
    """Downscale and encode. Labels take the nearest pixel, so that no class appears that is not there."""
    height, width = item.truth.shape
    factor = min(1.0, MAX_SIDE_PX / max(height, width))
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    photograph = Pillow.fromarray(item.image).resize(size, Pillow.Resampling.LANCZOS)
    labelled = item.truth != IGNORE_INDEX
    scores = iou(confusion(item.truth, item.prediction, len(colours)))  # (K,)
    return Picture(
        item.image_id,
        item.miou,
        float((item.prediction[labelled] == item.truth[labelled]).mean()) if labelled.any() else float("nan"),
        tuple(None if np.isnan(value) else round(value, 4) for value in scores.tolist()),
        *size,
        _uri(photograph, "jpeg"),
        _uri(_painted(item.truth, colours, size), "png"),
        _uri(_painted(item.prediction, colours, size), "png"),
    )


def legend(classes: Sequence[str], colours: Colours, items: Sequence[GalleryItem]) -> list[tuple[str, str]]:
    """(class name, CSS colour) of every class in any truth or prediction, and of ignored pixels where there are."""
    seen = np.zeros(256, dtype=bool)
    for item in items:
        seen[np.unique(item.truth)] = True
        seen[np.unique(item.prediction)] = True
    entries = [(name, css(colours[k])) for k, name in enumerate(classes) if seen[k]]
    return [*entries, ("not labelled", css(np.array(IGNORED)))] if seen[IGNORE_INDEX] else entries


def css(colour: NDArray[np.integer]) -> str:
    """(3,) -> '#rrggbb'."""
    return "#" + "".join(f"{int(value):02x}" for value in colour)


def _painted(label: Image, colours: Colours, size: tuple[int, int]) -> Pillow.Image:
    painted = Pillow.fromarray(label).resize(size, Pillow.Resampling.NEAREST)
    painted.putpalette(png_palette(colours))
    return painted


def _uri(picture: Pillow.Image, kind: str) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, format=kind, quality=JPEG_QUALITY, optimize=True)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
