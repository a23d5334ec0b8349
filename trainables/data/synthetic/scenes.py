"""Photographs of trash that nobody took: a surface, objects on it, light, shadows, a lens, a sensor.

Enters: a generator a scene (its images share surface, light and camera), and which objects lie in an image, with their
sizes. Leaves: an RGB image (S,S,3) uint8, and per object the outline that an annotator would have drawn.
All is drawn at twice the image's side, so that edges come out as a lens would give them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from trainables.data.synthetic.objects import DRAW
from trainables.data.synthetic.surfaces import SURFACES
from trainables.data.synthetic.textures import Plane, grain, noise

OVERSAMPLE = 2
OVERSCAN = 1.5  # a scene's surface is this many times wider than one image of it


@dataclass(frozen=True)
class Scene:
    """What the images of one group share."""

    surface: Plane  # (O,O,3), O = OVERSCAN * canvas
    light_rad: float  # where the light comes from
    hardness: float  # 0 overcast, 1 direct sun
    tint: npt.NDArray[np.float32]  # (3,) white balance times exposure
    blur_px: float  # at a 128 px image
    noise_std: float
    jpeg_quality: int


@dataclass(frozen=True)
class Item:
    """One object to place."""

    name: str
    side: float  # longer side as a share of the image's


@dataclass(frozen=True)
class Placed:
    """An object on the canvas: a region of it, and the annotator's outline in image pixels."""

    name: str
    origin: tuple[int, int]  # x, y of the region's first pixel on the canvas
    rgb: Plane  # (h,w,3)
    cover: Plane  # (h,w)
    polygons: list[list[float]]
    area: float
    height_px: float  # how far it stands off the ground: the length of its shadow


def make_scene(rng: np.random.Generator, image_px: int) -> Scene:
    """Draw a group's surface, light and camera."""
    side = round(OVERSCAN * OVERSAMPLE * image_px)
    names = list(SURFACES)
    light_rad = rng.uniform(0, 2 * np.pi)
    surface = SURFACES[names[int(rng.integers(len(names)))]](rng, side, light_rad)
    night = rng.random() < 0.18
    warmth = rng.normal(0.04 if night else 0.0, 0.03)
    exposure = rng.uniform(0.66, 0.8) if night else rng.uniform(0.92, 1.12)
    tint = exposure * np.array([1 + warmth, 1.0, 1 - 1.3 * warmth], np.float32)
    return Scene(
        surface=surface,
        light_rad=light_rad,
        hardness=0.25 if night else rng.uniform(0.1, 1.0),
        tint=tint.astype(np.float32),
        blur_px=rng.uniform(0.25, 0.6),
        noise_std=rng.uniform(0.022, 0.04) if night else rng.uniform(0.006, 0.02),
        jpeg_quality=int(rng.integers(70, 95)),
    )


def photograph(
    rng: np.random.Generator, scene: Scene, items: Sequence[Item], image_px: int
) -> tuple[npt.NDArray[np.uint8], list[Placed]]:
    """One image (S,S,3) of a scene, and its objects by falling area: the order in which masks are painted."""
    canvas = _ground(rng, scene, image_px * OVERSAMPLE)
    centres = _centres(rng, len(items))
    tried = [_place(rng, scene, item, centre, image_px) for item, centre in zip(items, centres, strict=True)]
    placed = sorted((one for one in tried if one is not None), key=lambda one: -one.area)
    for one in placed:
        _put(canvas, one, scene)
    return _expose(rng, canvas, scene, image_px), placed


def _ground(rng: np.random.Generator, scene: Scene, px: int) -> Plane:
    """The part (P,P,3) of the surface that this image sees: moved, turned and zoomed a little."""
    spare = len(scene.surface) - px
    zoom = rng.uniform(0.95, 1.1)
    turn = cv2.getRotationMatrix2D((len(scene.surface) / 2,) * 2, float(rng.uniform(-7, 7)), zoom)
    turn = turn - np.array([[0, 0, 1]]) * rng.uniform(0.2, 0.8, (2, 1)) * spare
    ground = cv2.warpAffine(scene.surface, turn, (px, px), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
    return np.asarray(ground, np.float32)


def _centres(rng: np.random.Generator, count: int) -> npt.NDArray[np.float64]:
    """Where objects lie, (count,2) as shares of the side: strewn, or in a heap where they overlap."""
    if count > 2 and rng.random() < 0.4:
        heap = rng.uniform(0.35, 0.65, 2)
        return np.clip(heap + rng.normal(0, 0.15, (count, 2)), 0.1, 0.9)
    tries = rng.uniform(0.08, 0.92, (count, 6, 2))
    chosen: list[npt.NDArray[np.float64]] = []
    for options in tries:  # the best of six: apart, but not as if by rule
        gaps = [min((float(np.hypot(*(o - c))) for c in chosen), default=1.0) for o in options]
        chosen.append(options[int(np.argmax(gaps))])
    return np.array(chosen).reshape(count, 2)


def _place(
    rng: np.random.Generator, scene: Scene, item: Item, centre: npt.NDArray[np.float64], image_px: int
) -> Placed | None:
    """Draw an object, turn and tilt it, cut it at the image's border; None where less than 10 pixels are left."""
    px = image_px * OVERSAMPLE
    extent = item.side * px
    turn_rad = rng.uniform(0, 2 * np.pi)
    sprite_px = int(np.clip(extent * 1.25, 24, 640))
    rgb, cover = DRAW[item.name](rng, sprite_px, scene.light_rad - turn_rad)
    squeeze = np.diag([1.0, rng.uniform(0.72, 1.0)])  # seen from aslant
    turn = np.array([[math.cos(turn_rad), -math.sin(turn_rad)], [math.sin(turn_rad), math.cos(turn_rad)]])
    linear = squeeze @ turn * (extent / sprite_px)
    half = math.ceil(extent * 0.75) + 2
    low = np.clip(np.floor(centre * px).astype(int) - half, 0, px)
    high = np.clip(np.floor(centre * px).astype(int) + half, 0, px)
    shift = centre * px - low - linear @ np.array([sprite_px / 2, sprite_px / 2])
    matrix, size = np.hstack([linear, shift[:, None]]), (int(high[0] - low[0]), int(high[1] - low[1]))
    layers = cv2.warpAffine(
        np.dstack([np.clip(rgb, 0, 1.3), cover]).astype(np.float32), matrix, size, flags=cv2.INTER_AREA
    )
    rgb, cover = np.asarray(layers[..., :3], np.float32), np.clip(layers[..., 3], 0, 1).astype(np.float32)
    polygons = _trace(rng, cover, low, image_px)
    area = sum(abs(_shoelace(polygon)) for polygon in polygons)
    if area < 10:
        return None
    stands = extent * rng.uniform(0.05, 0.16)
    return Placed(item.name, (int(low[0]), int(low[1])), rgb, cover, polygons, round(area, 2), stands)


def _trace(rng: np.random.Generator, cover: Plane, origin: npt.NDArray[np.int_], image_px: int) -> list[list[float]]:
    """Outlines [x0, y0, x1, ...] in image pixels, with an annotator's haste: corners cut, the hand unsteady."""
    solid = np.pad((cover > 0.35).astype(np.uint8), 1)
    contours, _ = cv2.findContours(solid, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    polygons = []
    for contour in contours:
        if cv2.contourArea(contour) < 10 * OVERSAMPLE**2:
            continue
        haste_px = 0.5 * OVERSAMPLE + 0.004 * cv2.arcLength(contour, True)
        points = cv2.approxPolyDP(contour, haste_px, True).reshape(-1, 2)
        if len(points) < 3:
            continue
        outline = (points - 1 + 0.5 + origin) / OVERSAMPLE + rng.normal(0, 0.18 + image_px / 2000, points.shape)
        polygons.append([round(float(value), 2) for value in np.clip(outline, 0, image_px).reshape(-1)])
    return polygons


def _shoelace(polygon: list[float]) -> float:
    """Signed area of [x0, y0, x1, y1, ...]."""
    x, y = np.array(polygon[0::2]), np.array(polygon[1::2])
    return float(0.5 * (np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))))


def _put(canvas: Plane, one: Placed, scene: Scene) -> None:
    """Lay an object on the canvas in place: first a soft contact shadow and the cast one, then itself."""
    reach = math.ceil(one.height_px * 2.2) + 3
    x, y = one.origin
    height, width = one.cover.shape
    top, left = max(y - reach, 0), max(x - reach, 0)
    region = canvas[top : y + height + reach, left : x + width + reach]
    blocked = np.zeros(region.shape[:2], np.float32)
    inside = (slice(y - top, y - top + height), slice(x - left, x - left + width))
    blocked[inside] = one.cover
    cast = one.height_px * (0.5 + scene.hardness)
    move = np.array([[1, 0, -math.cos(scene.light_rad) * cast], [0, 1, -math.sin(scene.light_rad) * cast]])
    soft_px = max(0.6, one.height_px * (0.75 - 0.5 * scene.hardness))
    shape = (region.shape[1], region.shape[0])
    cast_shadow = cv2.GaussianBlur(cv2.warpAffine(blocked, move, shape), (0, 0), soft_px)
    contact = cv2.GaussianBlur(blocked, (0, 0), max(0.6, 0.35 * one.height_px))
    region *= (1 - (0.25 + 0.33 * scene.hardness) * cast_shadow)[..., None]
    region *= (1 - 0.25 * contact)[..., None]
    region[inside] += one.cover[..., None] * (one.rgb - region[inside])


def _expose(rng: np.random.Generator, canvas: Plane, scene: Scene, image_px: int) -> npt.NDArray[np.uint8]:
    """Light falling off over the image, a shadow from outside it, then lens, sensor and tone curve."""
    px = len(canvas)
    axis = np.linspace(-1, 1, px, dtype=np.float32)
    x, y = np.meshgrid(axis, axis)
    slant = math.cos(scene.light_rad) * x + math.sin(scene.light_rad) * y
    lit = 1 + rng.uniform(0.03, 0.16) * slant - rng.uniform(0.02, 0.10) * (x**2 + y**2)
    if scene.hardness > 0.4 and rng.random() < 0.25:
        edge = noise(rng, (px, px), 1.3, octaves=5, roughness=0.6) - 0.6
        lit *= 1 - 0.3 * cv2.GaussianBlur((edge > 0).astype(np.float32), (0, 0), px / 70)
    image = canvas * lit[..., None] * (scene.tint * rng.normal(1, 0.04))
    image = cv2.resize(image, (image_px, image_px), interpolation=cv2.INTER_AREA)
    image = cv2.GaussianBlur(image, (0, 0), max(0.2, scene.blur_px * math.sqrt(image_px / 128) * rng.uniform(0.8, 1.3)))
    size = (image_px, image_px)
    speckle = np.dstack([grain(rng, size) for _ in range(3)]) * 0.6 + grain(rng, size)[..., None] * 0.8
    image = image + scene.noise_std * np.sqrt(np.clip(image, 0.05, 1.0)) * speckle
    toned = np.where(image < 0.7, image, 0.7 + 0.3 * np.tanh((image - 0.7) / 0.3))  # a shoulder, not a cut
    return np.asarray(np.rint(np.clip(toned, 0, 1) * 255), np.uint8)
