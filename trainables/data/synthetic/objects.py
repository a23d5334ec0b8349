"""The ten kinds of trash in the synthetic scenes: outline, proportions, colours, printed pattern and surface of each.

A pattern takes a generator, the colours (H,W,3) that it paints over in place, and each pixel's place x, y (H,W) in the
object's own box, [-1, 1] with y down. Some kinds are meant to be mistaken for each other: white paper, cartons and
styrofoam; bottles of glass and of plastic; bags and general trash.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from trainables.data.synthetic.textures import Colour, Plane, creases, lay, noise, pick

Outline = npt.NDArray[np.float64]  # corners (N,2)
Pattern = Callable[[np.random.Generator, Plane, Plane, Plane], None]
OUTLINE_POINTS = 64
BRIGHT = ((0.80, 0.12, 0.12), (0.10, 0.28, 0.65), (0.92, 0.72, 0.10), (0.10, 0.50, 0.35), (0.90, 0.45, 0.15))


def scraps(rng: np.random.Generator, rgb: Plane, x: Plane, _y: Plane) -> None:
    """Patches of many colours."""
    for colour in ((0.80, 0.20, 0.12), (0.90, 0.65, 0.15), (0.85, 0.83, 0.78)):
        lay(rgb, noise(rng, x.shape, 4, octaves=2) > 0.75, pick(rng, (colour,)))


def text(rng: np.random.Generator, rgb: Plane, x: Plane, y: Plane) -> None:
    """Mostly, rows of words."""
    if rng.random() < 0.65:
        rows = np.mod(y, rng.uniform(0.2, 0.3)) < 0.09
        lay(rgb, (rows & (noise(rng, x.shape, 12, octaves=1) > -0.6)) * np.float32(0.75), (0.25, 0.25, 0.28))


def carton(rng: np.random.Generator, rgb: Plane, x: Plane, y: Plane) -> None:
    """A broad printed band and a gable, a dark side."""
    ink = pick(rng, ((0.10, 0.35, 0.85), (0.15, 0.45, 0.90), (0.90, 0.30, 0.60)))
    lay(rgb, (y < -0.75) | (np.abs(y - rng.uniform(0, 0.3)) < rng.uniform(0.35, 0.5)), ink)
    lay(rgb, x**2 + (y - 0.15) ** 2 < 0.09, (0.92, 0.80, 0.20))
    lay(rgb, (x > 0.55) * np.float32(0.35), (0.05, 0.05, 0.10))


def can(rng: np.random.Generator, rgb: Plane, x: Plane, y: Plane) -> None:
    """Streaked bare metal above and below a print, a bright lid."""
    rgb *= (1 + 0.25 * np.sin(14 * x + rng.uniform(0, 6)))[..., None]
    if rng.random() < 0.75:
        lay(rgb, np.abs(y) < 0.5, pick(rng, ((0.80, 0.08, 0.10), (0.75, 0.10, 0.30))))
    lay(rgb, y < -0.8, (0.85, 0.86, 0.90))


def label(rng: np.random.Generator, rgb: Plane, _x: Plane, y: Plane) -> None:
    """Sometimes a paper label."""
    if rng.random() < 0.4:
        lay(rgb, np.abs(y - 0.35) < 0.2, (0.85, 0.80, 0.65))


def ribs(rng: np.random.Generator, rgb: Plane, _x: Plane, y: Plane) -> None:
    """Ribbed walls, a cap, mostly a bright label."""
    rgb *= (1 + 0.13 * np.sin(26 * y))[..., None]
    if rng.random() < 0.6:
        lay(rgb, np.abs(y - rng.uniform(0, 0.3)) < 0.22, pick(rng, BRIGHT))
    lay(rgb, y < -0.8, pick(rng, ((0.10, 0.30, 0.75), (0.95, 0.95, 0.95))))


def beads(rng: np.random.Generator, rgb: Plane, x: Plane, y: Plane) -> None:
    """Matt beads, and mostly the hollow of a box seen from above."""
    deep = np.maximum(np.abs(x), np.abs(y))
    if rng.random() < 0.6:
        lay(rgb, deep < rng.uniform(0.6, 0.75), (0.60, 0.67, 0.80))
        lay(rgb, deep < 0.5, (0.72, 0.79, 0.90))
    rgb *= (1 + 0.06 * noise(rng, x.shape, 24, octaves=1))[..., None]


def film(_rng: np.random.Generator, rgb: Plane, x: Plane, y: Plane) -> None:
    """Darker towards the rim, where the bag turns away."""
    rgb *= np.clip(1.1 - 0.3 * (x**2 + y**2), 0.7, 1.1)[..., None]


def copper_end(rng: np.random.Generator, rgb: Plane, _x: Plane, y: Plane) -> None:
    """A battery's bright end."""
    lay(rgb, y < rng.uniform(-0.4, -0.1), pick(rng, ((0.88, 0.52, 0.18), (0.85, 0.62, 0.18))))


def stripes(rng: np.random.Generator, rgb: Plane, _x: Plane, y: Plane) -> None:
    """Plain or striped cloth."""
    if rng.random() < 0.5:
        lay(rgb, np.mod(y * 3, 1) < 0.4, pick(rng, ((0.75, 0.60, 0.80), (0.60, 0.25, 0.50))))


def _mirrored(*right: tuple[float, float]) -> Outline:
    """A closed outline from its right half, top to bottom."""
    half = np.array(right, np.float64)
    return np.vstack([half, half[::-1] * (-1, 1)])


SHEET = _mirrored((0.95, -0.95), (0.95, 0.95))
BLOB = _mirrored((0.4, -0.95), (0.9, -0.5), (1.0, 0.2), (0.6, 0.9))
SACK = _mirrored((0.1, -0.65), (0.4, -1.0), (0.35, -0.55), (0.95, -0.1), (0.9, 0.75), (0.4, 1.0))
CARTON = _mirrored((0.8, -1.0), (1.0, -0.6), (1.0, 1.0))
CAN = _mirrored((0.85, -1.0), (1.0, -0.85), (1.0, 0.85), (0.85, 1.0))
CUP = _mirrored((1.0, -1.0), (0.7, 1.0))
BOTTLE = _mirrored((0.35, -1.0), (0.35, -0.7), (1.0, -0.25), (1.0, 1.0))
CELL = _mirrored((0.4, -1.0), (0.4, -0.9), (1.0, -0.85), (1.0, 1.0))
SHIRT = _mirrored((0.3, -0.9), (0.6, -0.8), (1.0, -0.1), (0.7, 0.05), (0.55, -0.2), (0.55, 0.95))
TROUSERS = _mirrored((0.7, -0.95), (1.0, 0.95), (0.3, 0.95), (0.05, -0.2))


@dataclass(frozen=True)
class Kind:
    """One class: how its objects are cut, coloured and lit."""

    pattern: Pattern
    shapes: tuple[Outline, ...]
    aspect: tuple[float, float]  # width over height, the range
    colours: tuple[Colour, ...]
    wobble: float = 0.02  # how far the outline strays, as a share of its radius
    crumple: float = 0.0  # depth of the creases
    gloss: float = 0.0  # of a round body; 0 is a flat one


KINDS: dict[str, Kind] = {  # in the order of the real set's categories: category id = position + 1
    "General trash": Kind(scraps, (BLOB, SHEET), (0.5, 1.0), ((0.55, 0.30, 0.14), (0.62, 0.36, 0.16)), 0.15, 0.2),
    "Paper": Kind(
        text, (SHEET,), (0.55, 0.95), ((0.90, 0.85, 0.74), (0.88, 0.85, 0.79), (0.66, 0.50, 0.33)), 0.04, 0.06
    ),
    "Paper pack": Kind(carton, (CARTON,), (0.5, 0.7), ((0.90, 0.90, 0.90),)),
    "Metal": Kind(can, (CAN,), (0.5, 0.65), ((0.62, 0.64, 0.68),), gloss=0.6),
    "Glass": Kind(label, (BOTTLE,), (0.35, 0.5), ((0.04, 0.33, 0.14), (0.28, 0.13, 0.03)), gloss=0.8),
    "Plastic": Kind(ribs, (BOTTLE, CUP), (0.4, 0.7), ((0.50, 0.78, 0.92), (0.55, 0.84, 0.90)), gloss=0.4),
    "Styrofoam": Kind(beads, (SHEET, BLOB), (0.6, 0.95), ((0.82, 0.88, 0.97), (0.85, 0.91, 0.97))),
    "Plastic bag": Kind(
        film, (SACK, BLOB), (0.7, 1.0),
        ((0.80, 0.82, 0.25), (0.30, 0.72, 0.30), (0.08, 0.08, 0.10), (0.86, 0.88, 0.90)), 0.06, 0.22,
    ),
    "Battery": Kind(copper_end, (CELL,), (0.35, 0.5), ((0.06, 0.06, 0.08), (0.10, 0.10, 0.16)), gloss=0.5),
    "Clothing": Kind(
        stripes, (SHIRT, TROUSERS), (0.8, 1.0), ((0.25, 0.15, 0.50), (0.45, 0.15, 0.45), (0.18, 0.20, 0.55)), 0.04, 0.12
    ),
}  # fmt: skip


def cut(rng: np.random.Generator, kind: Kind) -> Outline:
    """One of the kind's shapes, resampled to (OUTLINE_POINTS,2) in [-1, 1] and distorted smoothly."""
    corners = kind.shapes[int(rng.integers(len(kind.shapes)))]
    closed = np.vstack([corners, corners[:1]])
    along = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(closed, axis=0).T))])
    at = np.linspace(0, along[-1], OUTLINE_POINTS, endpoint=False)
    points = np.stack([np.interp(at, along, closed[:, axis]) for axis in (0, 1)], axis=1)
    waves, phase = np.arange(2, 8), np.linspace(0, 2 * np.pi, OUTLINE_POINTS, endpoint=False)[:, None]
    push = (rng.normal(size=6) / waves * np.cos(waves * phase + rng.uniform(0, 2 * np.pi, 6))).sum(axis=1)
    return np.asarray(np.clip(points * (1 + kind.wobble * push[:, None]), -1, 1), np.float64)


def paint(rng: np.random.Generator, kind: Kind, x: Plane, y: Plane, light_rad: float) -> Plane:
    """Colours (H,W,3) of an object at x, y (H,W) of its own box, lit from `light_rad` in its own frame."""
    rgb = np.broadcast_to(pick(rng, kind.colours), (*x.shape, 3)).copy()
    kind.pattern(rng, rgb, x, y)
    if kind.gloss:
        across = np.clip(x, -1, 1) + 0.45 * math.cos(light_rad)
        diffuse = 0.5 + 0.6 * np.sqrt(np.clip(1 - (0.75 * across) ** 2, 0, 1))
        shine = kind.gloss * np.exp(-((across / 0.16) ** 2))
    else:
        folds = creases(rng, x.shape, 3, light_rad)
        diffuse, shine = 1 + kind.crumple * folds, kind.crumple * np.clip(folds - 0.8, 0, 2)
    return np.asarray(rgb * diffuse[..., None] + shine[..., None], np.float32)
