"""Reads LabelMe: one JSON file per image, whose later shapes lie over earlier ones.

Polygons, masks and circles are outlines; a rectangle is one where the user says so. Points and lines have no area and
are refused by name. `__ignore__` counts for nothing, as in LabelMe's own converters.
"""

from __future__ import annotations

import base64
import binascii
import io
import math
import posixpath
from collections.abc import Callable, Iterator, Mapping
from pathlib import PurePosixPath
from reprlib import repr as short
from typing import Any

import numpy as np
from PIL import Image

from analysis.conversion.input_folder import InputFolder
from analysis.conversion.outlines import ellipse, rectangle
from analysis.conversion.source import Shape, SourceImage, SourceSet, check_window, roles_of, window_rle
from trainables.data.index import Role
from trainables.data.raster import Segmentation

IGNORED = "__ignore__"
MAX_COORDINATE = 1e9
Size = tuple[int, int]
Points = list[tuple[float, float]]


def read_labelme(given: InputFolder) -> SourceSet:
    """Every JSON file in the folder and below it. Raises ValueError where there is none."""
    names = given.files({".json"})
    if not names:
        raise ValueError(f"{given.root}: LabelMe has a JSON file for each image, got a folder without one")
    roles = roles_of(names)
    return SourceSet(_images(given, roles), ignored=frozenset({IGNORED}))


def _images(given: InputFolder, roles: Mapping[str, Role]) -> Iterator[SourceImage]:
    for source, role in roles.items():
        try:
            content = given.json_object(source)
            name = _image_name(source, content)
        except ValueError as error:
            given.findings.error(f"{source}: {error}")
            continue
        file = given.image(name, source, _told_size(content))
        if file is not None:
            size = file.height, file.width
            shapes = tuple(_shapes(given, source, content["shapes"], size))
            yield SourceImage(name, source, role, *size, shapes)


def _image_name(source: str, content: dict[str, Any]) -> str:
    """Where the image is, from the folder that is converted; LabelMe writes it from the JSON file's own."""
    path = content.get("imagePath")
    if not isinstance(content.get("shapes"), list) or not isinstance(path, str) or not path:
        raise ValueError("is no LabelMe file, which has `shapes` and `imagePath`; take it out of the folder")
    path = path.replace("\\", "/")  # written on Windows
    return path if path.startswith("/") else posixpath.normpath(posixpath.join(PurePosixPath(source).parent, path))


def _told_size(content: dict[str, Any]) -> Size | None:
    height, width = content.get("imageHeight"), content.get("imageWidth")
    return (height, width) if type(height) is int and type(width) is int else None


def _shapes(given: InputFolder, source: str, entries: list[Any], size: Size) -> Iterator[Shape]:
    for n, entry in enumerate(entries):
        where = f"shape {n}"
        try:
            if not isinstance(entry, dict):
                raise ValueError(f"must be an object, got {short(entry)}")
            label = entry.get("label")
            if not isinstance(label, str) or not label:
                raise ValueError(f"needs a label, got {label!r}")
            where = f"shape {n} ({label!r})"
            yield Shape(label, _segmentation(entry, size, boxes=given.boxes), where)
        except ValueError as error:
            given.findings.error(f"{source}: {where}: {error}")


def _segmentation(entry: dict[str, Any], size: Size, *, boxes: bool) -> Segmentation:
    kind = entry.get("shape_type") or "polygon"  # old files have none
    outline = OUTLINES.get(kind) if isinstance(kind, str) else None
    if outline is None:
        known = ", ".join(OUTLINES)
        raise ValueError(f"shapes of the kind {kind!r} have no area; draw one of {known}, or delete it")
    if kind == "rectangle" and not boxes:
        raise ValueError("a rectangle is seldom an object's outline; give --boxes to take it as one, or redraw it")
    return outline(_points(entry), entry, size)


def _points(entry: dict[str, Any]) -> Points:
    points = entry.get("points")
    sound = isinstance(points, list) and all(
        isinstance(point, list) and len(point) == 2 and all(_is_number(value) for value in point) for point in points
    )
    if not sound or points is None:
        raise ValueError(f"points must be [x, y] pairs of finite numbers, got {short(points)}")
    return [(float(x), float(y)) for x, y in points]


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < MAX_COORDINATE  # nor NaN


def _polygon(points: Points, _entry: dict[str, Any], _size: Size) -> Segmentation:
    return [[value for point in points for value in point]]


def _rectangle(points: Points, _entry: dict[str, Any], _size: Size) -> Segmentation:
    (left, top), (right, bottom) = _two(points, "opposite corners")
    return [rectangle(left, top, right, bottom)]


def _circle(points: Points, _entry: dict[str, Any], _size: Size) -> Segmentation:
    centre, rim = _two(points, "the centre and a point of the rim")
    radius = math.dist(centre, rim)
    return [ellipse(*centre, radius, radius)]


def _mask(points: Points, entry: dict[str, Any], size: Size) -> Segmentation:
    """A PNG of the box between the points, both ends included."""
    (left, top), (right, bottom) = _two(points, "the corners of the mask")
    x, y, columns, rows = round(left), round(top), round(right) - round(left) + 1, round(bottom) - round(top) + 1
    check_window(x, y, columns, rows, size)
    try:
        content = base64.b64decode(entry.get("mask") or "", validate=True)
        with Image.open(io.BytesIO(content), formats=["PNG"]) as image:
            if image.size != (columns, rows):
                raise ValueError(f"it has {image.width} x {image.height} px, its points {columns} x {rows}")
            inside = np.asarray(image.convert("L")) > 0
    except (TypeError, binascii.Error, OSError, SyntaxError, ValueError) as error:
        raise ValueError(f"a mask must be a PNG in base64 between its two points ({error}); draw it again") from error
    return window_rle(inside, x, y, size)


def _two(points: Points, what: str) -> Points:
    if len(points) != 2:
        raise ValueError(f"needs two points ({what}), got {len(points)}")
    return points


OUTLINES: dict[str, Callable[[Points, dict[str, Any], Size], Segmentation]] = {
    "polygon": _polygon,
    "mask": _mask,
    "circle": _circle,
    "rectangle": _rectangle,
}
