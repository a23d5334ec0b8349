"""Draws photographs of trash that nobody took: a surface, objects on it with their shadows, light, a lens, a sensor.

Everything is drawn at twice the image's side, so that edges are blurred as a lens blurs them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco_mask

from trainables.data.raster import segmentation_rle
from trainables.data.synthetic.objects import KINDS, Outline, cut, paint
from trainables.data.synthetic.textures import SURFACES, Plane

OVERSAMPLE = 2
OVERSCAN = 1.5  # a scene's surface is this many times wider than one image of it
OUTLINE_DIGITS = 2  # of an annotation's coordinates
MIN_AREA = 10.0  # pixels; smaller objects are dropped


@dataclass(frozen=True)
class Scene:
    """What the images of one group share."""

    surface: Plane  # (O,O,3), O = OVERSCAN * canvas
    light_rad: float  # where the light comes from
    hardness: float  # of the shadows: 0 overcast, 1 direct sun
    tint: Plane  # (3,) white balance times exposure
    noise_std: float


@dataclass(frozen=True)
class Item:
    """One object to place."""

    name: str
    side: float  # longer side as a share of the image's


@dataclass(frozen=True)
class Placed:
    """One object in an image: what is painted, and its outline."""

    name: str
    origin: tuple[int, int]  # x, y of the painted region's first pixel on the canvas
    rgb: Plane  # (h,w,3)
    outline: Outline  # (N,2) in image pixels, inside the image
    area: float
    height_px: float  # how far it stands off the ground on the canvas: the length of its shadow


def make_scene(rng: np.random.Generator, image_px: int) -> Scene:
    """Draw a group's surface, light and camera."""
    light_rad = rng.uniform(0, 2 * np.pi)
    make_surface = SURFACES[int(rng.integers(len(SURFACES)))]
    warmth = rng.normal(0, 0.03)
    tint = rng.uniform(0.78, 1.1) * np.array([1 + warmth, 1, 1 - warmth])
    surface = make_surface(rng, round(OVERSCAN * OVERSAMPLE * image_px))
    return Scene(surface, light_rad, rng.uniform(0.1, 1.0), tint.astype(np.float32), rng.uniform(0.008, 0.025))


def photograph(
    rng: np.random.Generator, scene: Scene, items: Sequence[Item], image_px: int
) -> tuple[npt.NDArray[np.uint8], list[Placed]]:
    """One image (S,S,3) of a scene, and its objects, larger masks first: the order in which labels are painted."""
    px = image_px * OVERSAMPLE
    left, top = rng.integers(0, len(scene.surface) - px + 1, 2)
    canvas = scene.surface[top : top + px, left : left + px].copy()
    centres = _centres(rng, len(items))
    tried = [_place(rng, scene, item, centre, image_px) for item, centre in zip(items, centres, strict=True)]
    placed = sorted((one for one in tried if one.area >= MIN_AREA), key=lambda one: -_mask_px(one.outline, image_px))
    for one in placed:
        _paint(canvas, one, scene)
    return _expose(rng, canvas, scene, image_px), placed


def _mask_px(outline: Outline, image_px: int) -> int:
    """The pixels of an outline's mask, as the annotation has it."""
    polygon = [outline.round(OUTLINE_DIGITS).reshape(-1).tolist()]
    return int(coco_mask.area(segmentation_rle(polygon, image_px, image_px)))


def _centres(rng: np.random.Generator, count: int) -> npt.NDArray[np.float64]:
    """Where objects lie, (count,2) as shares of the side: strewn, or in a heap where they overlap."""
    if count > 2 and rng.random() < 0.25:
        return np.clip(rng.uniform(0.35, 0.65, 2) + rng.normal(0, 0.18, (count, 2)), 0.1, 0.9)
    per_row = max(4, math.ceil(math.sqrt(count)))
    cells = rng.permutation(per_row**2)[:count, None]
    return (np.hstack([cells % per_row, cells // per_row]) + rng.uniform(0.2, 0.8, (count, 2))) / per_row


def _place(
    rng: np.random.Generator, scene: Scene, item: Item, centre: npt.NDArray[np.float64], image_px: int
) -> Placed:
    """Draw an object turned about `centre`; its outline is cut at the image's border."""
    kind, px = KINDS[item.name], image_px * OVERSAMPLE
    turn_rad = rng.uniform(0, 2 * np.pi)
    cos, sin = math.cos(turn_rad), math.sin(turn_rad)
    turn = np.array([[cos, -sin], [sin, cos]])
    half = item.side * px / 2 * np.array([rng.uniform(*kind.aspect), 1.0])
    outline = np.clip((cut(rng, kind) * half) @ turn.T + centre * px, 0, px)
    low, high = np.floor(outline.min(axis=0)).astype(int), np.ceil(outline.max(axis=0)).astype(int)
    y, x = np.mgrid[low[1] : high[1], low[0] : high[0]] + 0.5
    own = ((np.stack([x, y], axis=-1) - centre * px) @ turn / half).astype(np.float32)
    rgb = paint(rng, kind, own[..., 0], own[..., 1], scene.light_rad - turn_rad)
    area = float(cv2.contourArea((outline / OVERSAMPLE).astype(np.float32)))
    stands_px = item.side * px * rng.uniform(0.03, 0.10)
    return Placed(item.name, (int(low[0]), int(low[1])), rgb, outline / OVERSAMPLE, area, stands_px)


def _paint(canvas: Plane, one: Placed, scene: Scene) -> None:
    """Lay an object on the canvas in place: first its shadow, then itself."""
    solid = np.zeros(canvas.shape[:2], np.uint8)
    corners = np.rint((one.outline * OVERSAMPLE - 0.5) * 16).astype(np.int32)
    cv2.fillPoly(solid, [corners], 255, cv2.LINE_AA, shift=4)
    cover = (solid / np.float32(255)).astype(np.float32)
    move = -one.height_px * np.array([math.cos(scene.light_rad), math.sin(scene.light_rad)])
    moved = cv2.warpAffine(cover, np.array([[1, 0, move[0]], [0, 1, move[1]]]), cover.shape[::-1])
    shadow = cv2.GaussianBlur(moved, (0, 0), max(0.8, one.height_px * (1 - 0.7 * scene.hardness)))
    canvas *= (1 - (0.25 + 0.3 * scene.hardness) * shadow)[..., None]
    left, top = one.origin
    inside = (slice(top, top + one.rgb.shape[0]), slice(left, left + one.rgb.shape[1]))
    canvas[inside] += cover[inside][..., None] * (one.rgb - canvas[inside])


def _expose(rng: np.random.Generator, canvas: Plane, scene: Scene, image_px: int) -> npt.NDArray[np.uint8]:
    """Light that falls off across the image, then lens, sensor and tone curve."""
    y, x = np.mgrid[-1 : 1 : len(canvas) * 1j, -1 : 1 : len(canvas) * 1j]
    lit = 1 + rng.uniform(0.03, 0.15) * (math.cos(scene.light_rad) * x + math.sin(scene.light_rad) * y)
    image = (canvas * lit[..., None] * scene.tint).astype(np.float32)
    image = cv2.resize(image, (image_px, image_px), interpolation=cv2.INTER_AREA)
    image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.3, 0.7) * math.sqrt(image_px / 128))
    image = image + scene.noise_std * rng.standard_normal(image.shape, dtype=np.float32)
    toned = np.where(image < 0.7, image, 0.7 + 0.3 * np.tanh((image - 0.7) / 0.3))  # a shoulder, not a cut
    return np.asarray(np.rint(np.clip(toned, 0, 1) * 255), np.uint8)
