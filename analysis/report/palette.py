"""One colour per class, the same in label PNGs, in the bundle and in the report.

Colours are (K,3) uint8 sRGB. The colour of class k does not depend on K, so that files of two runs can be compared.
Colours are chosen one after the other, each as far as it can be from all before it for normal, deuteranope and
protanope eyes at once (CIELAB distance after Machado et al., IEEE TVCG 15(6), 2009).
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

MAX_CLASSES = 255  # a label is a byte and 255 means ignored
BACKGROUND = (0, 0, 0)
IGNORED = (224, 224, 224)
# Okabe and Ito, "Color Universal Design" (2008), without its black.
FIRST = (
    (0, 114, 178), (230, 159, 0), (0, 158, 115), (204, 121, 167), (86, 180, 233), (213, 94, 0), (240, 228, 66),
)  # fmt: skip
# Machado et al. 2009, severity 1.0, on linear RGB: deuteranopia and protanopia.
_SIMULATIONS = np.array([
    [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]],
    [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
])  # fmt: skip
_RGB_TO_XYZ = np.array([
    [0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041],
])  # fmt: skip
_WHITE_D65 = np.array([0.95047, 1.0, 1.08883])

Colours = NDArray[np.uint8]


def palette(num_classes: int, *, background: bool) -> Colours:
    """(K,3) uint8 sRGB. With a background class 0 is black. Raises ValueError outside 1 to 255 classes."""
    if not 1 <= num_classes <= MAX_CLASSES:
        raise ValueError(f"a palette has 1 to {MAX_CLASSES} classes, got {num_classes}; merge classes of the data set")
    first = 0 if background else 1
    return _all_colours()[first : first + num_classes].copy()


def png_palette(colours: Colours) -> list[int]:
    """(K,3) -> the 768 bytes that PIL's mode "P" wants; 255 (ignored) is light grey."""
    full = np.zeros((256, 3), dtype=np.uint8)
    full[: len(colours)] = colours
    full[255] = IGNORED
    flat: list[int] = full.ravel().tolist()
    return flat


def paint(label: NDArray[np.uint8], colours: Colours) -> NDArray[np.uint8]:
    """label (H,W) uint8 -> (H,W,3) uint8 RGB."""
    table = np.array(png_palette(colours), dtype=np.uint8).reshape(256, 3)
    painted: NDArray[np.uint8] = table[label]
    return painted


def seen_by(colours: NDArray[Any]) -> NDArray[np.float64]:
    """(N,3) uint8 sRGB -> (3,N,3) CIELAB as seen with normal, deuteranope and protanope eyes."""
    srgb = np.asarray(colours, dtype=np.float64) / 255.0
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    seen = np.clip(np.einsum("eij,nj->eni", _SIMULATIONS, linear), 0.0, 1.0)
    ratio = seen @ _RGB_TO_XYZ.T / _WHITE_D65
    f = np.where(ratio > 216 / 24389, np.cbrt(ratio), (24389 / 27 * ratio + 16) / 116)
    lab: NDArray[np.float64] = np.stack(
        [116 * f[..., 1] - 16, 500 * (f[..., 0] - f[..., 1]), 200 * (f[..., 1] - f[..., 2])], axis=-1
    )
    return lab


@cache
def _all_colours() -> Colours:
    """(256,3): black, the seven of Okabe and Ito, then the farthest of a 9 x 9 x 9 grid, again and again."""
    steps = np.linspace(0, 255, 9).round()
    grid = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), axis=-1).reshape(-1, 3)
    chosen = [BACKGROUND, *FIRST]
    avoid = seen_by(np.array([*chosen, IGNORED, (255, 255, 255)]))  # (3,N,3)
    candidates = seen_by(grid)  # (3,729,3)
    gap = np.linalg.norm(candidates[:, :, None] - avoid[:, None], axis=-1).min(axis=(0, 2))  # (729,)
    while len(chosen) < MAX_CLASSES + 1:
        best = int(gap.round(6).argmax())  # rounded: the order must not hang on the last bit of a platform
        red, green, blue = grid[best].astype(int).tolist()
        chosen.append((red, green, blue))
        gap = np.minimum(gap, np.linalg.norm(candidates - candidates[:, best : best + 1], axis=-1).min(axis=0))
    return np.array(chosen, dtype=np.uint8)
