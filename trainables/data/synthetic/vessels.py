"""The round kinds of trash in the synthetic scenes: cans, bottles, jars, cups, tubs, batteries.

Enters: a generator, a canvas side P in pixels, the light's direction in the object's own frame. Leaves: a sprite,
colours (P,P,3) and cover (P,P), float32 in about [0, 1]. Bottles of glass and of plastic are meant to be mistaken, as
are small cans and batteries.
"""

from __future__ import annotations

import numpy as np

from trainables.data.synthetic.textures import (
    BRIGHT,
    Sprite,
    band,
    creases,
    ellipse,
    flat,
    lathe,
    lay,
    mask,
    noise,
    pick,
    print_text,
    relief,
    round_light,
    units,
    wobble,
)


def metal(rng: np.random.Generator, px: int, light_rad: float) -> Sprite:
    """A can: streaked metal, often printed, a bright rim and lid; sometimes dented."""
    _, y = units(px)
    half = rng.uniform(0.42, 0.6)
    rows, outline = lathe([(-0.86, half * 0.86), (-0.76, half), (0.78, half), (0.9, half * 0.84)])
    if rng.random() < 0.45:
        outline = wobble(rng, outline, 0.045, waves=5)
    cover = np.maximum(mask(outline, px), mask(ellipse(half * 0.86, 0.13, -0.84), px))
    diffuse, shine = round_light(rows, px, light_rad, gloss=0.55)
    bare = np.array((0.66, 0.67, 0.69), np.float32)
    rgb = flat(px, bare)
    if rng.random() < 0.72:
        ink = pick(rng, ((0.75, 0.10, 0.12), (0.80, 0.62, 0.20), (0.12, 0.12, 0.14), (0.85, 0.40, 0.10)))
        lay(rgb, band(y, -0.74, 0.78) * 0.85, ink)
        lay(rgb, mask(ellipse(half * 0.8, 0.3, rng.uniform(-0.2, 0.3)), px) * 0.9, pick(rng, BRIGHT))
        print_text(rng, rgb, cover, half * 0.6, 0.4, (0.9, 0.9, 0.9))
    streaks = np.broadcast_to(noise(rng, (1, px), 14, octaves=2), (px, px))
    rgb = rgb * (diffuse * (1 + 0.10 * streaks))[..., None] + shine[..., None]
    rgb *= 1 + 0.08 * relief(noise(rng, (px, px), 3), light_rad)[..., None]
    lay(rgb, mask(ellipse(half * 0.86, 0.13, -0.84), px), bare * 1.18)
    lay(rgb, mask(ellipse(half * 0.7, 0.09, -0.83), px), bare * 0.72)
    lay(rgb, mask(ellipse(half * 0.2, 0.035, -0.81), px), bare * 0.35)
    return rgb, cover


def glass(rng: np.random.Generator, px: int, light_rad: float) -> Sprite:
    """A bottle with a long neck, or a jar: deep green, brown or clear, with hard highlights."""
    _, y = units(px)
    half, neck = rng.uniform(0.28, 0.38), rng.uniform(0.1, 0.14)
    shoulder = rng.uniform(-0.35, -0.05)
    profile = [(-0.97, neck), (shoulder - 0.25, neck * 1.1), (shoulder, half), (0.88, half), (0.96, half * 0.85)]
    if rng.random() < 0.25:
        profile = [(-0.75, 0.42), (-0.55, 0.42), (-0.4, 0.56), (0.68, 0.56), (0.78, 0.45)]
    rows, outline = lathe(profile)
    solid = mask(outline, px)
    tint = pick(rng, ((0.06, 0.24, 0.11), (0.30, 0.15, 0.05), (0.42, 0.56, 0.50), (0.10, 0.30, 0.16)), 0.03)
    diffuse, shine = round_light(rows, px, light_rad, gloss=0.75)
    rim = 1.15 - diffuse  # glass is darkest where one looks along its wall
    rgb = tint * (0.75 + 0.5 * diffuse[..., None]) * (1 - 0.8 * np.clip(rim, 0, 1)[..., None])
    cover = solid * (0.72 + 0.28 * np.clip(2 * rim, 0, 1)) if tint.sum() > 1.2 else solid * 0.93
    if rng.random() < 0.55:
        label = band(y, 0.1, rng.uniform(0.45, 0.7))
        lay(rgb, label, pick(rng, ((0.85, 0.80, 0.65), (0.75, 0.12, 0.12), (0.88, 0.88, 0.86))) * diffuse[..., None])
        cover = np.maximum(cover, solid * label)
        print_text(rng, rgb, label, half * 0.7, 0.6, (0.2, 0.15, 0.1))
    if rng.random() < 0.4:
        lay(rgb, band(y, -1, -0.88), (0.7, 0.6, 0.25))
    return rgb + shine[..., None], cover.astype(np.float32)


def plastic(rng: np.random.Generator, px: int, light_rad: float) -> Sprite:
    """A clear ribbed bottle with a cap and a label, a cup with a lid, or an opaque coloured container."""
    _, y = units(px)
    kind = rng.choice(["bottle", "cup", "tub"], p=[0.45, 0.3, 0.25])
    half = rng.uniform(0.3, 0.42)
    profile = [(-0.97, 0.13), (-0.82, 0.13), (-0.5, half), (0.9, half), (0.97, half * 0.8)]
    if kind == "cup":
        profile = [(-0.8, 0.5), (-0.68, 0.56), (-0.66, 0.5), (0.85, 0.36), (0.9, 0.33)]
    if kind == "tub":
        profile = [(-0.62, 0.2), (-0.6, 0.75), (-0.45, 0.75), (0.6, 0.58), (0.66, 0.5)]
    rows, outline = lathe(profile)
    rows[:, 1] *= 1 + 0.02 * np.sin(rows[:, 0] * 45) * (rows[:, 0] > -0.4)
    solid = mask(wobble(rng, outline, 0.02), px)
    diffuse, shine = round_light(rows, px, light_rad, gloss=0.45)
    if kind == "tub":
        rgb = (
            pick(rng, ((0.10, 0.35, 0.70), (0.12, 0.50, 0.72), (0.78, 0.86, 0.92), (0.82, 0.2, 0.2)))
            * diffuse[..., None]
        )
        return rgb + 0.6 * shine[..., None], solid
    ribs = np.sin(y * 48) * (y > -0.35)
    rgb = pick(rng, ((0.62, 0.78, 0.90), (0.74, 0.83, 0.88), (0.58, 0.80, 0.84)), 0.03) * diffuse[..., None]
    rgb *= 1 + 0.09 * ribs[..., None] + 0.08 * relief(creases(rng, (px, px), 4), light_rad)[..., None]
    cover = solid * np.clip(0.5 + 1.1 * (1.08 - diffuse) + 0.4 * shine, 0, 1)
    start = rng.uniform(-0.25, 0.15)
    if rng.random() < 0.7:
        label = band(y, start, start + rng.uniform(0.3, 0.5))
        lay(rgb, label * 0.95, pick(rng, (*BRIGHT, (0.9, 0.9, 0.9))) * diffuse[..., None])
        print_text(rng, rgb, label, half * 0.7, start + 0.3, (0.93, 0.93, 0.93))
        cover = np.maximum(cover, solid * label * 0.97)
    cap = band(y, -1, -0.84 if kind == "bottle" else -0.66)
    lay(rgb, cap, pick(rng, ((0.92, 0.92, 0.92), (0.10, 0.30, 0.65), (0.1, 0.5, 0.3))) * diffuse[..., None])
    return rgb + shine[..., None], np.maximum(cover, solid * cap * 0.95).astype(np.float32)


def battery(rng: np.random.Generator, px: int, light_rad: float) -> Sprite:
    """A round cell: two colours along its length and a bright nub."""
    _, y = units(px)
    half = rng.uniform(0.24, 0.36)
    nub = half * 0.4
    rows, outline = lathe([(-0.97, nub), (-0.86, nub), (-0.85, half), (0.95, half), (0.97, half * 0.95)])
    cover = mask(outline, px)
    body, tip = (
        pick(rng, ((0.08, 0.08, 0.10), (0.07, 0.20, 0.50), (0.08, 0.38, 0.20), (0.55, 0.08, 0.10))),
        pick(rng, ((0.78, 0.52, 0.25), (0.82, 0.68, 0.22), (0.70, 0.70, 0.72))),
    )
    rgb = flat(px, body)
    lay(rgb, band(y, -0.86, rng.uniform(-0.45, -0.2)), tip)
    lay(rgb, band(y, -1.0, -0.85) + band(y, 0.86, 1.0), (0.78, 0.78, 0.80))
    print_text(rng, rgb, cover, half * 0.6, 0.5, (0.85, 0.85, 0.8))
    diffuse, shine = round_light(rows, px, light_rad, gloss=0.6)
    return rgb * diffuse[..., None] + shine[..., None], cover
