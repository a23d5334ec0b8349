"""From a label map to what is sent back: areas per class, the mask as PNG, small pictures for the page."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow

from analysis.bundle.manifest import Manifest
from analysis.report.html import photograph, tinted
from analysis.report.palette import Colours, png_palette

PICTURE_PX = 1280  # the longer side of what the page shows
Image = NDArray[np.uint8]  # (H,W,3) RGB
Label = NDArray[np.uint8]  # (H,W)


@dataclass(frozen=True)
class Legend:
    """The classes and how they are painted."""

    classes: Sequence[str]  # (K,)
    colours: Colours  # (K,3)
    background: bool

    @classmethod
    def of(cls, manifest: Manifest) -> Legend:
        return cls(manifest.classes, np.array(manifest.palette, dtype=np.uint8), manifest.background)


def areas(label: Label, legend: Legend) -> list[dict[str, Any]]:
    """Per class, in the bundle's order: its name, colour, number of pixels and share of the image."""
    counts = np.bincount(label.ravel(), minlength=len(legend.classes)).tolist()
    return [
        {"class": k, "name": name, "colour": hex_colour(legend.colours[k]), "pixels": n, "share": n / label.size}
        for k, (name, n) in enumerate(zip(legend.classes, counts, strict=True))
    ]


def hex_colour(colour: NDArray[np.uint8]) -> str:
    """(3,) -> '#rrggbb'."""
    return f"#{bytes(colour.tolist()).hex()}"


def mask_png(label: Label, legend: Legend) -> bytes:
    """The palette PNG that `segsearch predict` writes: a pixel's value is its class."""
    picture, content = Pillow.fromarray(label), io.BytesIO()
    picture.putpalette(png_palette(legend.colours))
    picture.save(content, format="PNG")
    return content.getvalue()


def data_uri(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode('ascii')}"


def pictures(image: Image, label: Label, legend: Legend) -> dict[str, str]:
    """JPEG data URIs for the page: the photograph as it was read, and under the colours of its classes. Both are made
    small first: tinting a whole photograph takes longer than predicting it may."""
    height, width = label.shape
    step = max(1, max(height, width) // PICTURE_PX)
    small, label = image[::step, ::step], label[::step, ::step]
    overlay = tinted(small, label, legend.colours, background=legend.background)
    return {"photo": photograph(small, PICTURE_PX, 85), "overlay": photograph(overlay, PICTURE_PX, 85)}
