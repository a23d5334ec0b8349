"""Brushes that the synthetic scenes are drawn with: noise, relief, outlines, inks, light on a round body.

Enters: a generator and sizes in pixels. Leaves: float32 planes (H,W), about [-1, 1] for fields and [0, 1] for masks.
Sprites are drawn on a square canvas (P,P) whose units run from -1 to 1, x to the right and y down.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

Plane = npt.NDArray[np.float32]  # (H,W) or (H,W,3)
Colour = Sequence[float]  # RGB in [0, 1]
Ink = Sequence[float] | npt.NDArray[Any]  # one colour (3,), or one a pixel (P,P,3)
Outline = npt.NDArray[np.float64]  # corners (N,2)
Sprite = tuple[Plane, Plane]  # colours (P,P,3), cover (P,P)

BRIGHT: tuple[Colour, ...] = (
    (0.80, 0.10, 0.12), (0.08, 0.25, 0.62), (0.05, 0.45, 0.25), (0.92, 0.72, 0.08), (0.93, 0.45, 0.10),
    (0.45, 0.15, 0.45), (0.85, 0.35, 0.50), (0.10, 0.55, 0.65), (0.12, 0.12, 0.14),
)  # fmt: skip

MARGIN = 0.92  # the unit square ends this far from the canvas's edge, so that blurred borders stay inside


def noise(
    rng: np.random.Generator, size: tuple[int, int], cells: float, octaves: int = 4, roughness: float = 0.55
) -> Plane:
    """Smooth random field (H,W) of unit variance: octaves of upsampled white noise.

    `cells` lattice cells span the longer side in the first octave; each later one doubles them and has
    `roughness` times the amplitude. Octaves finer than a pixel are left out.
    """
    height, width = size
    field = np.zeros(size, np.float32)
    amplitude = 1.0
    for octave in range(octaves):
        cell_px = max(height, width) / (cells * 2**octave)
        if cell_px < 1.0 and octave:
            break
        lattice = (max(2, math.ceil(height / cell_px) + 1), max(2, math.ceil(width / cell_px) + 1))
        values = rng.standard_normal(lattice, dtype=np.float32)
        field += amplitude * cv2.resize(values, (width, height), interpolation=cv2.INTER_CUBIC)
        amplitude *= roughness
    return field / max(float(field.std()), 1e-6)


def grain(rng: np.random.Generator, size: tuple[int, int]) -> Plane:
    """White noise (H,W) of unit variance: sand, asphalt, a sensor."""
    return rng.standard_normal(size, dtype=np.float32)


def creases(rng: np.random.Generator, size: tuple[int, int], cells: float) -> Plane:
    """Sharp ridges between smooth hollows, as in crumpled foil: 1 - |noise|, in about [-1, 1]."""
    return 1.0 - np.abs(noise(rng, size, cells, octaves=3, roughness=0.5)).astype(np.float32)


def relief(height: Plane, light_rad: float) -> Plane:
    """How a height field (H,W) is lit from the direction `light_rad`: its slope towards the light, unit variance."""
    slope_x = cv2.Sobel(height, cv2.CV_32F, 1, 0, ksize=3)
    slope_y = cv2.Sobel(height, cv2.CV_32F, 0, 1, ksize=3)
    slope = math.cos(light_rad) * slope_x + math.sin(light_rad) * slope_y
    lit = slope / max(float(slope.std()), 1e-6)
    return np.asarray(np.clip(lit, -2.5, 2.5), np.float32)


def units(px: int) -> tuple[Plane, Plane]:
    """Sprite units of every pixel's centre: x (P,P), y (P,P)."""
    axis = ((np.arange(px, dtype=np.float32) + 0.5) / px * 2 - 1) / MARGIN
    x, y = np.meshgrid(axis, axis)
    return x.astype(np.float32), y.astype(np.float32)


def mask(points: Outline | Sequence[Sequence[float]], px: int) -> Plane:
    """Anti-aliased inside of a polygon in sprite units, (P,P) in [0, 1]."""
    pixels = (np.asarray(points, np.float64) * MARGIN + 1) / 2 * px - 0.5
    canvas = np.zeros((px, px), np.uint8)
    cv2.fillPoly(canvas, [np.rint(pixels * 16).astype(np.int32)], 255, cv2.LINE_AA, shift=4)
    return (canvas / np.float32(255)).astype(np.float32)


def lay(rgb: Plane, cover: npt.NDArray[Any], colour: Ink) -> None:
    """Paint `colour` over `rgb` (P,P,3) in place where `cover` (P,P) is 1, blended where it is between."""
    share = np.asarray(cover, np.float32)[..., None]
    rgb += share * (np.asarray(colour, np.float32) - rgb)


def flat(px: int, colour: Ink) -> Plane:
    """A canvas (P,P,3) of one colour."""
    return np.broadcast_to(np.asarray(colour, np.float32), (px, px, 3)).copy()


def box(half_width: float, half_height: float) -> Outline:
    """Corners (4,2) of an upright rectangle about the origin."""
    w, h = half_width, half_height
    return np.array([(-w, -h), (w, -h), (w, h), (-w, h)], np.float64)


def wobble(rng: np.random.Generator, points: Outline, amount: float, num_points: int = 64, waves: int = 7) -> Outline:
    """A closed outline, resampled to (num_points,2) and pushed in and out by a smooth random amount."""
    closed = np.vstack([points, points[:1]])
    lengths = np.hypot(*np.diff(closed, axis=0).T)
    along = np.concatenate([[0.0], np.cumsum(lengths)])
    at = np.linspace(0, along[-1], num_points, endpoint=False)
    outline = np.stack([np.interp(at, along, closed[:, axis]) for axis in (0, 1)], axis=1)
    phase = np.linspace(0, 2 * np.pi, num_points, endpoint=False)
    push = np.zeros(num_points)
    for wave in range(1, waves + 1):
        push += rng.normal() / wave**0.7 * np.cos(wave * phase + rng.uniform(0, 2 * np.pi))
    centre = outline.mean(axis=0)
    return np.asarray(np.clip(centre + (outline - centre) * (1 + amount * push[:, None]), -1, 1), np.float64)


def ellipse(half_width: float, half_height: float, y: float = 0.0, num_points: int = 48) -> Outline:
    """Outline (num_points,2) of an ellipse about (0, y)."""
    angle = np.linspace(0, 2 * np.pi, num_points, endpoint=False)
    return np.stack([half_width * np.cos(angle), y + half_height * np.sin(angle)], axis=1)


def lathe(profile: Sequence[tuple[float, float]]) -> tuple[Outline, Outline]:
    """A turned outline from (y, half width) pairs, top to bottom: rounded rows (R,2), and the polygon (2R,2)."""
    ys, halves = np.array(profile, np.float64).T
    rows = np.linspace(ys[0], ys[-1], 80)
    padded = np.pad(np.interp(rows, ys, halves), 3, mode="edge")
    half = np.convolve(padded, np.ones(7) / 7, mode="valid")
    right, left = np.stack([half, rows], axis=1), np.stack([-half[::-1], rows[::-1]], axis=1)
    return np.stack([rows, half], axis=1), np.vstack([right, left])


def round_light(rows: Outline, px: int, light_rad: float, gloss: float) -> tuple[Plane, Plane]:
    """Light on a turned body with `rows` (R,2) of (y, half width): diffuse (P,P) in [0.5, 1.1], highlight (P,P)."""
    x, y = units(px)
    half = np.interp(y[:, 0], rows[:, 0], rows[:, 1]).astype(np.float32)[:, None]
    across = np.clip(x / np.maximum(half, 1e-3), -1, 1)
    side = 0.45 * math.cos(light_rad)
    diffuse = 0.5 + 0.6 * np.sqrt(np.clip(1 - (0.8 * (across + side)) ** 2, 0, 1))
    highlight = gloss * np.exp(-(((across + side) / 0.13) ** 2)) + 0.4 * gloss * np.exp(
        -(((across - 0.75 * np.sign(side + 1e-6)) / 0.07) ** 2)
    )
    return diffuse.astype(np.float32), highlight.astype(np.float32)


def pick(rng: np.random.Generator, colours: tuple[Colour, ...], spread: float = 0.06) -> Plane:
    """One of the colours (3,), a little lighter or darker, faded and off in hue."""
    base = np.asarray(colours[int(rng.integers(len(colours)))], np.float32)
    faded = base + rng.uniform(0, 0.3) * (base.mean() - base)
    return np.asarray(np.clip(faded + rng.normal(0, spread) + rng.normal(0, 0.018, 3), 0.03, 0.93), np.float32)


def print_text(rng: np.random.Generator, rgb: Plane, inside: Plane, left: float, top: float, ink: Ink) -> None:
    """A block of text: rows of broken strokes."""
    px = len(rgb)
    x, y = units(px)
    pitch, words = rng.uniform(0.11, 0.18), noise(rng, (px, px), 14, octaves=1)
    rows = (np.mod(y - top, pitch) < pitch * 0.42) & (np.abs(x) < abs(left)) & (np.abs(y) < abs(top))
    lay(rgb, inside * (rows & (words > -0.5)) * 0.75, ink)


def band(y: Plane, low: float, high: float) -> Plane:
    """Where `y` lies between, (P,P) of 0 and 1."""
    return ((y > low) & (y < high)).astype(np.float32)
