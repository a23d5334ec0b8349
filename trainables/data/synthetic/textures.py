"""Noise, creases and colours for the synthetic scenes, and the grounds that the objects lie on.

Planes are float32 (H,W) or (H,W,3) in RGB; colours lie in about [0, 1], fields have unit variance.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import cv2
import numpy as np
import numpy.typing as npt

Plane = npt.NDArray[np.float32]  # (H,W) or (H,W,3)
Colour = Sequence[float] | Plane  # RGB


def noise(rng: np.random.Generator, shape: tuple[int, ...], cells: float, octaves: int = 4) -> Plane:
    """Smooth random field (H,W) of unit variance: octaves of upsampled white noise, `cells` along the longer side."""
    height, width = shape[:2]
    field = np.zeros((height, width), np.float32)
    for octave in range(octaves):
        cell_px = max(1.0, max(height, width) / (cells * 2**octave))
        lattice = (max(2, math.ceil(height / cell_px)), max(2, math.ceil(width / cell_px)))
        values = rng.standard_normal(lattice, dtype=np.float32)
        field += 0.55**octave * cv2.resize(values, (width, height), interpolation=cv2.INTER_CUBIC)
    return field / max(float(field.std()), 1e-6)


def creases(rng: np.random.Generator, shape: tuple[int, ...], cells: float, light_rad: float) -> Plane:
    """Shading (H,W) of crumpled foil lit from `light_rad`: sharp ridges between smooth hollows, unit variance."""
    height = -np.abs(noise(rng, shape, cells, octaves=3))
    slope = math.cos(light_rad) * cv2.Sobel(height, cv2.CV_32F, 1, 0, ksize=3)
    slope += math.sin(light_rad) * cv2.Sobel(height, cv2.CV_32F, 0, 1, ksize=3)
    return np.asarray(np.clip(slope / max(float(slope.std()), 1e-6), -2.5, 2.5), np.float32)


def lay(rgb: Plane, cover: npt.NDArray[np.float32] | npt.NDArray[np.bool_], colour: Colour) -> None:
    """Paint `colour` over `rgb` (H,W,3) in place where `cover` (H,W) is 1, blended where it is between 0 and 1."""
    rgb += np.asarray(cover, np.float32)[..., None] * (np.asarray(colour, np.float32) - rgb)


def pick(rng: np.random.Generator, colours: Sequence[Colour], spread: float = 0.05) -> Plane:
    """One of the colours (3,), a little lighter or darker and off in hue."""
    base = np.asarray(colours[int(rng.integers(len(colours)))], np.float32)
    return np.clip(base + rng.normal(0, spread) + rng.normal(0, 0.02, 3), 0.02, 0.95).astype(np.float32)


def _rough(rng: np.random.Generator, px: int, colour: Colour, stains: float, grain: float) -> Plane:
    """A colour (P,P,3) with slow stains and grain a few pixels wide."""
    field = 1 + stains * noise(rng, (px, px), 3) + grain * noise(rng, (px, px), px / 3, octaves=2)
    return np.asarray(field[..., None] * np.asarray(colour, np.float32), np.float32)


def bare(rng: np.random.Generator, px: int) -> Plane:
    """Grainy asphalt, concrete, earth or sand."""
    colours = ((0.35, 0.35, 0.36), (0.48, 0.47, 0.45), (0.52, 0.45, 0.35), (0.42, 0.34, 0.27))
    return _rough(rng, px, pick(rng, colours), 0.10, 0.13)


def laid(rng: np.random.Generator, px: int) -> Plane:
    """Rows of paving stones, tiles or boards at an angle: each of its own tone, with sunken joints."""
    base = pick(rng, ((0.52, 0.50, 0.47), (0.50, 0.38, 0.33), (0.56, 0.51, 0.44), (0.60, 0.47, 0.33)))
    y, x = np.mgrid[0:px, 0:px].astype(np.float32) / px * rng.uniform(5, 10)
    angle, length = rng.uniform(0, np.pi), rng.choice([1, 2, 6])
    v = math.cos(angle) * y - math.sin(angle) * x
    u = (math.cos(angle) * x + math.sin(angle) * y) / length + 0.5 * (np.floor(v) % 2)
    tones = rng.normal(1, 0.08, (32, 32)).astype(np.float32)[np.floor(u).astype(int) % 32, np.floor(v).astype(int) % 32]
    rgb = np.asarray(_rough(rng, px, base, 0.06, 0.07) * tones[..., None], np.float32)
    lay(rgb, (np.minimum(u * length % length, v % 1) < 0.07) * np.float32(0.6), base * rng.choice([0.5, 1.2]))
    return rgb


def grass(rng: np.random.Generator, px: int) -> Plane:
    """Straw or a lawn: strokes on dark soil, the later ones higher and lighter."""
    rgb = _rough(rng, px, (0.25, 0.22, 0.15), 0.2, 0.1)
    base = pick(rng, ((0.60, 0.52, 0.38), (0.34, 0.40, 0.20)))
    for height in np.linspace(0.5, 1.1, 1500):
        start, turn = rng.uniform(0, px, 2), rng.uniform(0, 2 * np.pi)
        end = start + np.array([math.cos(turn), math.sin(turn)]) * px * rng.uniform(0.03, 0.08)
        ink = (base * height * rng.normal(1, 0.12)).tolist()
        cv2.line(rgb, np.rint(start).astype(int).tolist(), np.rint(end).astype(int).tolist(), ink, max(1, px // 200))
    return np.asarray(cv2.GaussianBlur(rgb, (0, 0), px / 500), np.float32)


SURFACES: tuple[Callable[[np.random.Generator, int], Plane], ...] = (bare, laid, grass)
