"""The kinds of trash that the synthetic scenes hold, ten with the round ones of `vessels`: each has its own shape,
texture and colours, and each varies.

Enters: a generator, a canvas side P in pixels, the light's direction in the object's own frame. Leaves: a sprite,
colours (P,P,3) and cover (P,P), float32 in about [0, 1]. Some are meant to be mistaken: white paper and styrofoam,
bags and clothes, general trash and everything.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from trainables.data.synthetic.textures import (
    BRIGHT,
    Colour,
    Sprite,
    band,
    box,
    creases,
    ellipse,
    flat,
    grain,
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
from trainables.data.synthetic.vessels import battery, glass, metal, plastic


def paper(rng: np.random.Generator, px: int, light_rad: float) -> Sprite:
    """A sheet (plain, printed, crumpled), or a piece of cardboard."""
    kind = rng.choice(["sheet", "cardboard", "ball"], p=[0.6, 0.2, 0.2])
    shade = relief(creases(rng, (px, px), 2.0 if kind != "ball" else 4.0), light_rad)
    if kind == "ball":
        cover = mask(wobble(rng, ellipse(0.85, rng.uniform(0.6, 0.85)), 0.07), px)
        rgb = flat(px, pick(rng, ((0.88, 0.87, 0.84), (0.80, 0.76, 0.68))))
        return rgb * (1 + 0.13 * shade[..., None]), cover
    outline = box(rng.uniform(0.5, 0.95), rng.uniform(0.7, 0.95)) + rng.normal(0, 0.07, (4, 2))
    cover = mask(wobble(rng, np.clip(outline, -1, 1), 0.012), px)
    _, y = units(px)
    if kind == "cardboard":
        rgb = flat(px, pick(rng, ((0.62, 0.47, 0.31), (0.54, 0.40, 0.27), (0.68, 0.55, 0.40))))
        rgb *= 1 + 0.05 * np.sin(y * rng.uniform(50, 80))[..., None] + 0.05 * shade[..., None]
        fold = rng.uniform(-0.5, 0.3)
        rgb *= 1 - 0.22 * band(y, fold, 1.0)[..., None]
        lay(rgb, band(y, fold - 0.05, fold + 0.03) * 0.5, (0.30, 0.22, 0.15))
        return rgb, cover
    rgb = flat(px, pick(rng, ((0.90, 0.87, 0.80), (0.87, 0.85, 0.80), (0.86, 0.79, 0.66), (0.90, 0.84, 0.72))))
    if rng.random() < 0.2:
        lay(rgb, band(y, -1, rng.uniform(-0.7, -0.3)) * 0.9, pick(rng, BRIGHT))
    if rng.random() < 0.6:
        print_text(rng, rgb, cover, rng.uniform(0.3, 0.7), rng.uniform(0.4, 0.8), (0.25, 0.25, 0.28))
    return rgb * (1 + 0.055 * shade[..., None]), cover


def paper_pack(rng: np.random.Generator, px: int, light_rad: float) -> Sprite:
    """A drinks carton: a front, a darker side, a gable; white board printed in two colours."""
    x, y = units(px)
    half, eave, side = rng.uniform(0.36, 0.52), rng.uniform(-0.6, -0.45), rng.uniform(0.15, 0.3)
    top = eave - rng.uniform(0.3, 0.4)
    edge = half + side
    outline = [(-half, eave), (-half * 0.9, top), (half * 0.9 + side * 0.4, top - 0.02), (edge, eave - 0.05),
               (edge, 0.88), (half, 0.95), (-half, 0.95)]  # fmt: skip
    cover = mask(wobble(rng, np.array(outline), 0.012), px)
    rgb = flat(px, pick(rng, ((0.90, 0.90, 0.88), (0.88, 0.86, 0.78))))
    ink = pick(rng, ((0.10, 0.35, 0.75), (0.15, 0.55, 0.75), (0.88, 0.40, 0.60)))
    split = rng.uniform(-0.2, 0.35)
    lay(rgb, band(y, split, split + rng.uniform(0.3, 0.6)), ink)
    lay(rgb, band(y, top - 0.1, eave), 0.25 * ink + 0.7)
    lay(rgb, band(y, top - 0.1, top + 0.09), ink)
    lay(rgb, mask(ellipse(half * 0.6, half * 0.6, split), px), pick(rng, BRIGHT))
    print_text(rng, rgb, cover, half * 0.7, 0.9, (0.2, 0.2, 0.3))
    lay(rgb, (x > half) * 0.35, (0.1, 0.1, 0.1))
    lay(rgb, band(y, eave - 0.015, eave + 0.015) * 0.4, (0.2, 0.2, 0.2))
    return rgb * (1 + 0.03 * relief(noise(rng, (px, px), 3), light_rad)[..., None]), cover


def styrofoam(rng: np.random.Generator, px: int, light_rad: float) -> Sprite:
    """A white box seen from above, or a broken slab: matt, beaded, no print."""
    beads = relief(noise(rng, (px, px), min(px / 4, 40), octaves=2, roughness=0.8), light_rad)
    rgb = flat(px, pick(rng, ((0.86, 0.91, 0.98), (0.84, 0.90, 0.96), (0.90, 0.92, 0.95)), 0.02))
    if rng.random() < 0.55:
        w, h = rng.uniform(0.7, 0.95), rng.uniform(0.5, 0.8)
        deep = rng.uniform(0.6, 0.8)
        cover = mask(wobble(rng, box(w, h), 0.01), px)
        lay(rgb, mask(box(w * deep, h * (deep - 0.08)), px), np.asarray((0.58, 0.64, 0.74)))
        lay(
            rgb, mask(box(w * deep * 0.9, h * deep * 0.72) + np.array((0.03, 0.06)), px), np.asarray((0.74, 0.79, 0.88))
        )
    else:
        corners = ellipse(0.9, rng.uniform(0.55, 0.8), num_points=int(rng.integers(4, 7)))
        cover = mask(wobble(rng, corners + rng.normal(0, 0.08, corners.shape), 0.03, waves=12), px)
        x, y = units(px)
        rgb *= 1 - 0.18 * ((x + 0.7 * y) > rng.uniform(0.1, 0.5))[..., None]
    return rgb * (1 + 0.045 * beads[..., None]), cover


def plastic_bag(rng: np.random.Generator, px: int, light_rad: float) -> Sprite:
    """A filled or empty bag: a soft blob with tied ears, sharp glossy folds, thin film."""
    body = ellipse(rng.uniform(0.6, 0.85), rng.uniform(0.55, 0.72), 0.22)
    cover = mask(wobble(rng, body, 0.06), px)
    if rng.random() < 0.75:
        lean = rng.uniform(-0.25, 0.25)
        ears = [(-0.18, -0.2), (lean - 0.3, -0.9), (lean - 0.02, -0.6), (lean + 0.25, -0.95), (0.2, -0.2)]
        cover = np.maximum(cover, mask(wobble(rng, np.array(ears), 0.05), px))
    film = pick(rng, ((0.84, 0.86, 0.88), (0.08, 0.08, 0.10), (0.16, 0.58, 0.26), (0.22, 0.64, 0.30),
                      (0.82, 0.84, 0.25), (0.88, 0.56, 0.66), (0.28, 0.66, 0.24)))  # fmt: skip
    height = creases(rng, (px, px), rng.uniform(2.5, 4.5)) + 0.5 * noise(rng, (px, px), 5)
    lit = relief(height, light_rad)
    rgb = flat(px, film)
    if film.sum() > 1.5 and rng.random() < 0.55:  # the contents show through
        for _ in range(int(rng.integers(3, 7))):
            inside = noise(rng, (px, px), 4, octaves=2) > 0.9
            lay(rgb, inside * rng.uniform(0.1, 0.3), pick(rng, BRIGHT))
    x, y = units(px)
    dome = np.clip(1.08 - 0.3 * (x**2 + (y - 0.2) ** 2), 0.7, 1.1)
    rgb = rgb * dome[..., None] * (1 + 0.17 * lit[..., None]) + 0.22 * np.clip(lit - 1.0, 0, 2)[..., None]
    thin = rng.uniform(0.68, 0.85) if film.sum() > 2.2 else rng.uniform(0.92, 1.0)
    return rgb, cover * np.clip(thin + 0.1 * np.abs(lit), 0, 1).astype(np.float32)


def clothing(rng: np.random.Generator, px: int, light_rad: float) -> Sprite:
    """A shirt, trousers or a sock: woven, soft folds, plain or striped, matt."""
    shirt = [(-0.25, -0.8), (0.25, -0.8), (0.55, -0.72), (0.98, -0.15), (0.68, 0.05), (0.5, -0.2), (0.52, 0.9),
             (-0.52, 0.9), (-0.5, -0.2), (-0.68, 0.05), (-0.98, -0.15), (-0.55, -0.72)]  # fmt: skip
    trousers = [(-0.5, -0.92), (0.5, -0.92), (0.68, 0.92), (0.2, 0.94), (0.0, -0.3), (-0.2, 0.94), (-0.68, 0.92)]
    sock = [(-0.25, -0.95), (0.28, -0.95), (0.3, 0.2), (0.85, 0.5), (0.8, 0.85), (0.1, 0.88), (-0.28, 0.5)]
    shape = (shirt, trousers, sock)[int(rng.choice(3, p=[0.45, 0.35, 0.2]))]
    cover = mask(wobble(rng, np.array(shape), 0.035, num_points=96), px)
    x, y = units(px)
    dye = pick(rng, ((0.14, 0.18, 0.36), (0.40, 0.10, 0.18), (0.34, 0.16, 0.38), (0.18, 0.28, 0.48),
                      (0.58, 0.26, 0.36), (0.48, 0.42, 0.60), (0.30, 0.30, 0.34)))  # fmt: skip
    rgb = flat(px, dye)
    if rng.random() < 0.4:
        lay(rgb, (np.mod(y * rng.uniform(3, 6), 1) < 0.4) * 0.85, pick(rng, (*BRIGHT, (0.88, 0.88, 0.86))))
    weave = np.sin(x * px * 0.75) * np.sin(y * px * 0.75) if px > 40 else np.zeros_like(x)
    folds = relief(noise(rng, (px, px), 2.2, octaves=3, roughness=0.45), light_rad)
    return rgb * (1 + 0.16 * folds + 0.07 * weave + 0.05 * grain(rng, (px, px)))[..., None], cover


def general_trash(rng: np.random.Generator, px: int, light_rad: float) -> Sprite:
    """What fits nowhere else: a cigarette butt, a face mask, a snack wrapper, a lump of mixed scraps."""
    kind = rng.choice(["butt", "mask", "wrapper", "lump"], p=[0.15, 0.15, 0.35, 0.35])
    _, y = units(px)
    if kind == "butt":
        rows, outline = lathe([(-0.9, 0.16), (0.8, 0.16), (0.92, 0.12)])
        rgb = flat(px, (0.86, 0.84, 0.80))
        lay(rgb, band(y, -1, rng.uniform(-0.3, 0.1)), pick(rng, ((0.78, 0.52, 0.28), (0.82, 0.66, 0.45))))
        lay(rgb, band(y, 0.72, 1), (0.15, 0.14, 0.13))
        return rgb * round_light(rows, px, light_rad, 0.0)[0][..., None], mask(wobble(rng, outline, 0.03), px)
    if kind == "mask":
        cover = mask(wobble(rng, box(0.95, rng.uniform(0.55, 0.7)), 0.04), px)
        rgb = flat(px, pick(rng, ((0.60, 0.74, 0.82), (0.88, 0.89, 0.90), (0.15, 0.15, 0.17)), 0.03))
        pleats = 0.08 * np.sign(np.sin(y * 16)) + 0.06 * relief(noise(rng, (px, px), 3), light_rad)
        return rgb * (1 + pleats[..., None]), cover
    outline = box(0.92, 0.5) if kind == "wrapper" else ellipse(0.85, rng.uniform(0.5, 0.8), num_points=9)
    cover = mask(wobble(rng, outline, 0.03 if kind == "wrapper" else 0.12, waves=10), px)
    muddy: tuple[Colour, ...] = ((0.60, 0.30, 0.12), (0.75, 0.42, 0.15), (0.62, 0.20, 0.12), (0.45, 0.30, 0.20))
    rgb = flat(px, pick(rng, muddy))
    for _ in range(4):
        lay(
            rgb,
            (noise(rng, (px, px), 3, octaves=2) > 0.7) * 0.9,
            pick(rng, (*BRIGHT, *muddy, (0.85, 0.85, 0.83)), 0.08),
        )
    lit = relief(creases(rng, (px, px), 5), light_rad)
    return rgb * (1 + 0.17 * lit[..., None]), cover


# In the order of the real set's categories: category id = position + 1.
DRAW: dict[str, Callable[[np.random.Generator, int, float], Sprite]] = {
    "General trash": general_trash,
    "Paper": paper,
    "Paper pack": paper_pack,
    "Metal": metal,
    "Glass": glass,
    "Plastic": plastic,
    "Styrofoam": styrofoam,
    "Plastic bag": plastic_bag,
    "Battery": battery,
    "Clothing": clothing,
}
