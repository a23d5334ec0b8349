"""The ground under the synthetic trash: asphalt, paving, sand, dry grass, leaves, planks, tiles, concrete.

Enters: a generator, a side P in pixels, the light's direction. Leaves: colours (P,P,3), float32 in about [0, 1].
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

from trainables.data.synthetic.textures import Colour, Plane, flat, grain, lay, noise, relief


def _toned(rng: np.random.Generator, colours: tuple[Colour, ...]) -> Plane:
    """One of the colours (3,), lighter or darker."""
    base = np.asarray(colours[int(rng.integers(len(colours)))], np.float32)
    return (base * rng.uniform(0.8, 1.12) + rng.normal(0, 0.012, 3)).astype(np.float32)


def _rough(rng: np.random.Generator, px: int, colour: Plane, stains: float, sand: float) -> Plane:
    """A colour with slow stains and grain a few pixels wide."""
    coarse = noise(rng, (px, px), px / 3, octaves=1)
    field = 1 + stains * noise(rng, (px, px), 3, octaves=5) + sand * (0.7 * grain(rng, (px, px)) + coarse)
    return np.asarray(flat(px, colour) * field[..., None], np.float32)


def _cracks(rng: np.random.Generator, rgb: Plane, count: int) -> None:
    """Dark wandering lines, in place."""
    px = len(rgb)
    lines = np.zeros((px, px), np.uint8)
    for _ in range(count):
        steps = rng.normal(0, px / 40, (30, 2)) + rng.normal(0, px / 45, 2)
        path = np.rint(rng.uniform(0, px, 2) + np.cumsum(steps, axis=0)).astype(np.int32)
        cv2.polylines(lines, [path], False, 255, max(1, px // 220), cv2.LINE_AA)
    lay(rgb, lines.astype(np.float32) / 255 * 0.6, (0.1, 0.1, 0.1))


def asphalt(rng: np.random.Generator, px: int, _light_rad: float) -> Plane:
    """Grey, grainy, cracked; sometimes a painted line."""
    rgb = _rough(rng, px, _toned(rng, ((0.34, 0.34, 0.35), (0.26, 0.26, 0.28), (0.42, 0.41, 0.40))), 0.07, 0.12)
    _cracks(rng, rgb, int(rng.integers(0, 5)))
    if rng.random() < 0.3:
        lay(rgb, _grid(rng, px, 0.8, 0.07) * 0.7, (0.75, 0.73, 0.66) if rng.random() < 0.6 else (0.75, 0.6, 0.15))
    return rgb


def _grid(rng: np.random.Generator, px: int, pitch: float, share: float) -> Plane:
    """A band (P,P) that comes again every `pitch` of the side, at a random angle."""
    angle = rng.uniform(0, np.pi)
    y, x = np.mgrid[0:px, 0:px].astype(np.float32) / px
    across = np.mod((np.cos(angle) * x + np.sin(angle) * y) / pitch + rng.uniform(), 1)
    return np.asarray(across < share, np.float32)


def paving(rng: np.random.Generator, px: int, _light_rad: float) -> Plane:
    """Rows of stones, each of its own tone, with sunken joints, at an angle."""
    base = _toned(rng, ((0.52, 0.50, 0.47), (0.50, 0.36, 0.31), (0.58, 0.55, 0.48), (0.42, 0.43, 0.45)))
    angle, size = rng.uniform(0, np.pi), px / rng.uniform(4.5, 9)
    y, x = np.mgrid[0:px, 0:px].astype(np.float32)
    u = (np.cos(angle) * x + np.sin(angle) * y + px) / size
    v = (np.cos(angle) * y - np.sin(angle) * x + px) / (size * rng.uniform(0.5, 1.0))
    u = u + 0.5 * (np.floor(v) % 2)
    tones = rng.normal(1, 0.07, (64, 64)).astype(np.float32)
    stone = tones[np.floor(u).astype(int) % 64, np.floor(v).astype(int) % 64]
    joint = np.minimum(np.minimum(u % 1, 1 - u % 1), np.minimum(v % 1, 1 - v % 1)) < rng.uniform(0.03, 0.06)
    rgb = np.asarray(_rough(rng, px, base, 0.05, 0.07) * stone[..., None], np.float32)
    seam = cv2.GaussianBlur(joint.astype(np.float32), (0, 0), max(0.6, px / 400))
    lay(rgb, seam * rng.uniform(0.4, 0.8), base * rng.choice([0.45, 1.25]))
    return rgb


def sand(rng: np.random.Generator, px: int, light_rad: float) -> Plane:
    """Bare soil: lit bumps and pebbles."""
    rgb = _rough(rng, px, _toned(rng, ((0.52, 0.44, 0.33), (0.44, 0.36, 0.28), (0.55, 0.48, 0.38))), 0.06, 0.07)
    bumps = relief(noise(rng, (px, px), 18, octaves=5, roughness=0.75), light_rad)
    pebbles = np.clip(noise(rng, (px, px), px / 9, octaves=1) - 1.9, 0, 1)
    return np.asarray(rgb * (1 + 0.11 * bumps + 0.35 * pebbles)[..., None], np.float32)


def _blades(rng: np.random.Generator, rgb: Plane, count: int, colours: tuple[Colour, ...], length: float) -> None:
    """Strokes of grass or needles, in place; later ones lie higher and are lighter."""
    px = len(rgb)
    starts = rng.uniform(-0.05, 1.05, (count, 2)) * px
    turns, lengths = rng.uniform(0, 2 * np.pi, count), rng.uniform(0.4, 1.0, count) * length * px
    ends = starts + np.stack([np.cos(turns), np.sin(turns)], axis=1) * lengths[:, None]
    inks = np.asarray(colours)[rng.integers(len(colours), size=count)]
    inks = inks * (np.linspace(0.5, 1.1, count) * rng.normal(1, 0.1, count))[:, None]
    paths = np.rint(np.stack([starts, ends], axis=1) * 8).astype(np.int32)
    for path, ink in zip(paths, inks, strict=True):
        cv2.line(rgb, path[0].tolist(), path[1].tolist(), ink.tolist(), max(1, px // 260), cv2.LINE_8, 3)


def dry_grass(rng: np.random.Generator, px: int, _light_rad: float) -> Plane:
    """Straw on dark soil, or a living lawn."""
    rgb = _rough(rng, px, _toned(rng, ((0.28, 0.23, 0.17), (0.20, 0.20, 0.13))), 0.2, 0.08)
    straw = ((0.70, 0.62, 0.46), (0.58, 0.48, 0.34), (0.48, 0.40, 0.30), (0.75, 0.68, 0.54))
    lawn = ((0.32, 0.42, 0.18), (0.24, 0.36, 0.14), (0.45, 0.48, 0.24), (0.55, 0.50, 0.30))
    _blades(rng, rgb, 2600, straw if rng.random() < 0.65 else lawn, 0.09)
    rgb = np.asarray(cv2.GaussianBlur(rgb, (0, 0), px / 500), np.float32)
    return np.asarray(rgb * (1 + 0.12 * noise(rng, (px, px), 4))[..., None], np.float32)


def leaves(rng: np.random.Generator, px: int, light_rad: float) -> Plane:
    """Fallen leaves over straw, each with its own small shadow."""
    rgb = dry_grass(rng, px, light_rad)
    browns = np.array([(0.42, 0.27, 0.17), (0.55, 0.38, 0.22), (0.34, 0.22, 0.17), (0.60, 0.46, 0.26)])
    shift = -np.array([np.cos(light_rad), np.sin(light_rad)]) * px / 130
    for _ in range(int(rng.integers(40, 170))):
        turn, size = np.linspace(0, 2 * np.pi, 20), px * rng.uniform(0.02, 0.045)
        radius = size * (0.75 + 0.3 * np.cos(rng.integers(3, 7) * turn + rng.uniform(0, 6)))
        leaf = np.stack([radius * np.cos(turn), rng.uniform(0.45, 0.8) * radius * np.sin(turn)], axis=1)
        lean = rng.uniform(0, 2 * np.pi)
        spin = np.array([[np.cos(lean), -np.sin(lean)], [np.sin(lean), np.cos(lean)]])
        leaf = leaf @ spin + rng.uniform(0, px, 2)
        ink = browns[int(rng.integers(4))] * rng.uniform(0.7, 1.25)
        for outline, colour in ((leaf + shift, ink * 0.35), (leaf, ink)):
            cv2.fillPoly(rgb, [np.rint(outline * 8).astype(np.int32)], colour.tolist(), cv2.LINE_8, 3)
    rgb = np.asarray(cv2.GaussianBlur(rgb, (0, 0), px / 450), np.float32)
    return np.asarray(rgb * (1 + 0.07 * grain(rng, (px, px)))[..., None], np.float32)


def planks(rng: np.random.Generator, px: int, _light_rad: float) -> Plane:
    """A wooden floor or table: long fibres, narrow gaps."""
    base = _toned(rng, ((0.55, 0.40, 0.26), (0.42, 0.29, 0.19), (0.66, 0.53, 0.38)))
    fibres = cv2.resize(noise(rng, (px, max(8, px // 24)), px / 3, octaves=2), (px, px), interpolation=cv2.INTER_CUBIC)
    y = np.arange(px, dtype=np.float32)[:, None] / px * rng.uniform(4, 9)
    tones = rng.normal(1, 0.09, 16).astype(np.float32)[np.floor(y).astype(int)]
    gap = (y % 1 < 0.035).astype(np.float32) * np.ones((1, px), np.float32)
    rgb = np.asarray(_rough(rng, px, base, 0.05, 0.02) * ((1 + 0.08 * fibres) * tones)[..., None], np.float32)
    lay(rgb, gap * 0.7, base * 0.3)
    return np.asarray(np.rot90(rgb) if rng.random() < 0.5 else rgb, np.float32).copy()


def tiles(rng: np.random.Generator, px: int, _light_rad: float) -> Plane:
    """Large smooth tiles indoors, and the foot of a wall on some."""
    base = _toned(rng, ((0.56, 0.48, 0.37), (0.52, 0.50, 0.47), (0.58, 0.53, 0.45), (0.50, 0.42, 0.34)))
    rgb = _rough(rng, px, base, 0.04, 0.012)
    for _ in range(2):
        lay(rgb, _grid(rng, px, rng.uniform(0.25, 0.45), 0.018) * 0.6, base * 0.6)
    return _wall(rng, rgb) if rng.random() < 0.5 else rgb


def concrete(rng: np.random.Generator, px: int, _light_rad: float) -> Plane:
    """A stained slab, sometimes before a wall."""
    rgb = _rough(rng, px, _toned(rng, ((0.52, 0.51, 0.49), (0.46, 0.45, 0.43), (0.54, 0.51, 0.46))), 0.09, 0.035)
    _cracks(rng, rgb, int(rng.integers(0, 3)))
    return _wall(rng, rgb) if rng.random() < 0.6 else rgb


def _wall(rng: np.random.Generator, rgb: Plane) -> Plane:
    """The upper part becomes a wall; the corner under it is dark."""
    px = len(rgb)
    foot = int(px * rng.uniform(0.25, 0.42))
    paint = _toned(rng, ((0.60, 0.56, 0.48), (0.52, 0.30, 0.24), (0.45, 0.48, 0.52), (0.56, 0.55, 0.53)))
    rgb[:foot] = _rough(rng, px, paint, 0.05, 0.02)[:foot]
    rows = np.arange(px, dtype=np.float32)
    corner = 1 - 0.45 * np.exp(-np.abs(rows - foot) / (px * 0.02))
    return np.asarray(rgb * corner[:, None, None], np.float32)


SURFACES: dict[str, Callable[[np.random.Generator, int, float], Plane]] = {
    "asphalt": asphalt,
    "paving": paving,
    "sand": sand,
    "dry_grass": dry_grass,
    "leaves": leaves,
    "planks": planks,
    "tiles": tiles,
    "concrete": concrete,
}
