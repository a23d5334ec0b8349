"""From stored logits to probabilities at the labels' own pixels: of whole images, and of single pixels.

Logits (K,h,w) are upsampled bilinearly (align_corners=False, as the model itself does), then softmax, then the mean
over views: (K,H,W) float32.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numba
import numpy as np
from numpy.typing import NDArray

from trainables.logits.sources import LogitSource

Float = NDArray[np.float32]

_LOG2_E = np.float32(math.log2(math.e))
# 2**f on [0, 1) as a polynomial through Chebyshev nodes: 1e-7 relative, and the compiler turns it into SIMD code, which
# it cannot do with a call of expf
_NODES = 0.5 + 0.5 * np.cos((2 * np.arange(7) + 1) * np.pi / 14)
_C0, _C1, _C2, _C3, _C4, _C5, _C6 = (
    np.float32(c) for c in np.polynomial.polynomial.polyfit(_NODES, 2.0**_NODES, 6).tolist()
)


@dataclass(frozen=True)
class Axis:
    """Where each output pixel of one axis lies between two input pixels (align_corners=False)."""

    low: NDArray[np.int32]
    high: NDArray[np.int32]
    share: Float  # of `high`


def axis(num_in: int, num_out: int) -> Axis:
    # in float32, as torch does it: a model's own labels are to be met, near ties too
    ratio, half = np.float32(num_in) / np.float32(num_out), np.float32(0.5)
    position = np.maximum(ratio * (np.arange(num_out, dtype=np.float32) + half) - half, np.float32(0))
    low = np.minimum(position.astype(np.int32), num_in - 1)
    high = np.minimum(low + 1, num_in - 1).astype(np.int32)
    return Axis(low, high, (position - low.astype(np.float32)).astype(np.float32))


@numba.njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract", "nsz"})
def _softmax_row(row, scratch, power, scale, num_classes):  # type: ignore[no-untyped-def] # (K,W) logits -> (K,W) probabilities
    width = row.shape[1]
    top, total = scratch[0], scratch[1]
    top[:] = row[0]
    for k in range(1, num_classes):
        for x in range(width):
            top[x] = max(top[x], row[k, x])
    total[:] = 0
    for k in range(num_classes):
        for x in range(width):
            y = max((row[k, x] - top[x]) * _LOG2_E, np.float32(-126))
            whole = np.floor(y)
            f = y - whole
            poly = _C0 + f * (_C1 + f * (_C2 + f * (_C3 + f * (_C4 + f * (_C5 + f * _C6)))))
            power[x] = (np.int32(whole) + np.int32(127)) << np.int32(23)  # the bits of 2**whole
            row[k, x] = poly
        for x in range(width):
            value = row[k, x] * scale[x]
            row[k, x] = value
            total[x] += value
    for x in range(width):
        total[x] = np.float32(1) / total[x]
    for k in range(num_classes):
        for x in range(width):
            row[k, x] *= total[x]


@numba.njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract", "nsz"})
def _add_view(grid, y0, y1, fy, x0, x1, fx, share, out):  # type: ignore[no-untyped-def] # (K,h,w) -> added to (K,H,W)
    num_classes, height_in, _ = grid.shape
    height, width = out.shape[1], out.shape[2]
    wide = np.empty((num_classes, height_in, width), np.float32)  # across first: the gather runs on h rows, not H
    for k in range(num_classes):
        for y in range(height_in):
            line, target = grid[k, y], wide[k, y]
            for x in range(width):
                target[x] = line[x0[x]] + fx[x] * (line[x1[x]] - line[x0[x]])
    row = np.empty((num_classes, width), np.float32)
    scratch = np.empty((2, width), np.float32)
    power = np.empty(width, np.int32)
    scale = power.view(np.float32)
    for y in range(height):
        for k in range(num_classes):
            upper, lower = wide[k, y0[y]], wide[k, y1[y]]
            for x in range(width):
                row[k, x] = upper[x] + fy[y] * (lower[x] - upper[x])
        _softmax_row(row, scratch, power, scale, num_classes)
        for k in range(num_classes):
            target = out[k, y]
            for x in range(width):
                target[x] += share * row[k, x]


@numba.njit(cache=True, nogil=True, error_model="numpy", fastmath=False)
def _at_pixels(grid, y0, y1, fy, x0, x1, fx, flat, out):  # type: ignore[no-untyped-def] # (K,h,w), (P,) -> (K,P)
    num_classes = grid.shape[0]
    width = x0.size
    value = np.empty(num_classes, np.float32)
    for i in range(flat.size):
        y, x = flat[i] // width, flat[i] % width
        top = np.float32(-np.inf)
        for k in range(num_classes):
            upper = grid[k, y0[y], x0[x]] + fx[x] * (grid[k, y0[y], x1[x]] - grid[k, y0[y], x0[x]])
            lower = grid[k, y1[y], x0[x]] + fx[x] * (grid[k, y1[y], x1[x]] - grid[k, y1[y], x0[x]])
            value[k] = upper + fy[y] * (lower - upper)
            top = max(top, value[k])
        total = np.float32(0)
        for k in range(num_classes):
            value[k] = np.exp(value[k] - top)
            total += value[k]
        for k in range(num_classes):
            out[k, i] = value[k] / total


def probabilities(
    store: LogitSource,
    views: Sequence[str],
    image_id: str,
    out: Float | None = None,
    *,
    temperature: float = 1.0,
    rows: slice | None = None,
) -> Float:
    """(K,H,W) float32 at the label's size, the mean of `views`; written into `out` where one is given. The logits are
    divided by `temperature`. With `rows`, those of the label alone, (K,rows,W), the same to the last bit.

    Raises ValueError where a view or the image is missing, or its logits are not finite.
    """
    if not views:
        raise ValueError(f"probabilities of image '{image_id}' need at least one view, got none; name one")
    for view in views:
        grid, down, across = _grid(store, view, image_id, rows)
        if out is None:
            out = np.empty((grid.shape[0], down.share.size, across.share.size), np.float32)
        if view == views[0]:
            out[:] = 0
        if temperature != 1:
            grid *= np.float32(1 / temperature)
        share = np.float32(1 / len(views))
        _add_view(grid, down.low, down.high, down.share, across.low, across.high, across.share, share, out)
    assert out is not None
    return out


def sampled_probabilities(store: LogitSource, view: str, image_id: str, flat: NDArray[np.int64], out: Float) -> None:
    """Writes one view's probabilities at the flat pixel positions `flat` (P,) of the label into `out` (K,P)."""
    grid, rows, columns = _grid(store, view, image_id)
    _at_pixels(grid, rows.low, rows.high, rows.share, columns.low, columns.high, columns.share, flat, out)


def finite_logits(store: LogitSource, view: str, image_id: str, rows: slice = slice(None)) -> Float:
    """(K,h,w) float32, or these rows of it. Raises ValueError where they are not finite."""
    grid = store.logits(view, image_id)[:, rows].astype(np.float32, order="C")
    if not np.isfinite(grid).all():
        raise ValueError(
            f"logits must be finite, got NaN or infinity in image '{image_id}', view '{view}' of trial "
            f"{store.header.trial}; leave this trial out or write its logits again"
        )
    return grid


def _grid(store: LogitSource, view: str, image_id: str, rows: slice | None = None) -> tuple[Float, Axis, Axis]:
    """The logits, and where the label's rows (all, or these) and columns lie between them."""
    height, width = store.size_px(view, image_id)
    if rows is None:
        grid = finite_logits(store, view, image_id)
        return grid, axis(grid.shape[1], height), axis(grid.shape[2], width)
    whole = axis(store.logits(view, image_id).shape[1], height)
    low, high, share = whole.low[rows], whole.high[rows], whole.share[rows]
    first, last = int(low.min()), int(high.max()) + 1
    grid = finite_logits(store, view, image_id, slice(first, last))
    return grid, Axis(low - np.int32(first), high - np.int32(first), share), axis(grid.shape[2], width)
