"""Reads "CVAT for images 1.1": one XML file, whose shapes lie over each other by z_order, then in the file's order.

Polygons, masks and ellipses are outlines; a box is one where the user says so. Lines, points, cuboids and skeletons are
refused by name, and so is CVAT for video. The labels of the task give the order of the classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from reprlib import repr as short

import numpy as np

from analysis.conversion.input_folder import InputFolder
from analysis.conversion.outlines import ellipse, rectangle
from analysis.conversion.source import Shape, SourceImage, SourceSet, check_window, roles_of, window_rle
from analysis.conversion.xml_events import Element, elements
from trainables.data.index import Role
from trainables.data.raster import Segmentation

Attributes = Mapping[str, str]
Size = tuple[int, int]
NOT_SHAPES = frozenset({"tag", "attribute"})


def read_cvat(given: InputFolder) -> SourceSet:
    """Every XML file right in the folder. Raises ValueError where there is none."""
    xml = [name for name in given.files({".xml"}) if "/" not in name]
    if not xml:
        raise ValueError(f"{given.root}: CVAT for images 1.1 has an annotations.xml; name the folder that holds it")
    labels: dict[str, None] = {}
    names: list[tuple[str, str, str]] = []  # file, subset, image
    for source in xml:
        try:
            found = _overview(given.root / source)
        except (OSError, ValueError) as error:
            given.findings.error(f"{source}: {error}")
            continue
        labels |= dict.fromkeys(found[0])
        names += [(source, *each) for each in found[1]]
    by_path = roles_of(_role_key(subset, name) for _, subset, name in names)
    sources = dict.fromkeys(source for source, _, _ in names)
    return SourceSet(_images(given, sources, by_path), labels=tuple(labels))


def _overview(path: Path) -> tuple[list[str], list[tuple[str, str]]]:
    """The labels of the tasks, and subset and name of each image. Raises ValueError for another kind of file."""
    labels: list[str] = []
    names: list[tuple[str, str]] = []
    for element in elements(path):
        if element.path[0] != "annotations":
            raise ValueError(f"is no CVAT file, which begins with <annotations>, got <{element.path[0]}>")
        if element.path[-1] == "track":
            raise ValueError("is CVAT for video, which has tracks; export it as 'CVAT for images 1.1'")
        if element.ended and element.path[-3:] == ("labels", "label", "name"):
            labels.append(element.text.strip())
        if element.path == ("annotations", "image") and not element.ended:
            names.append((element.attributes.get("subset", ""), element.attributes.get("name", "")))
    if not names:
        raise ValueError("lists no image; export it as 'CVAT for images 1.1'")
    return labels, names


def _images(given: InputFolder, sources: Mapping[str, None], roles: Mapping[str, Role]) -> Iterator[SourceImage]:
    for source in sources:
        shapes: list[Element] = []
        for element in elements(given.root / source):
            if element.ended and len(element.path) == 3 and element.path[1] == "image":
                shapes.append(element)
            elif element.ended and element.path == ("annotations", "image"):
                image = _image(given, source, element.attributes, shapes, roles)
                shapes = []
                if image is not None:
                    yield image


def _image(
    given: InputFolder, source: str, attributes: Attributes, shapes: list[Element], roles: Mapping[str, Role]
) -> SourceImage | None:
    where = f"{source}: image {attributes.get('name')!r}"
    subset, name = attributes.get("subset", ""), attributes.get("name", "").replace("\\", "/")
    try:
        if not name:
            raise ValueError("needs a name; export it again")
        told = _whole(attributes, "height"), _whole(attributes, "width")
        given.folder.path_of(name)
        place = _place(given, subset, name)
    except ValueError as error:
        given.findings.error(f"{where}: {error}")
        return None
    if given.image(place, where, told) is None:
        return None
    found = sorted(_shapes(given, where, shapes, told), key=lambda each: each[0])
    role = roles[_role_key(subset, attributes["name"])]
    return SourceImage(place, source, role, *told, tuple(shape for _, shape in found))


def _place(given: InputFolder, subset: str, name: str) -> str:
    """Where CVAT's archives have the image, or its name alone where it is nowhere."""
    places = [PurePosixPath(*folders, name) for folders in (("images", subset), ("images",), (subset,))]
    safe = [place.as_posix() for place in places if ".." not in place.parts]
    return next((place for place in safe if (given.root / place).is_file()), name)


def _role_key(subset: str, name: str) -> str:
    return f"{subset}/{name}" if subset else name


def _shapes(given: InputFolder, where: str, shapes: list[Element], size: Size) -> Iterator[tuple[int, Shape]]:
    """Each shape and its z_order."""
    drawn = (element for element in shapes if element.path[-1] not in NOT_SHAPES)
    for n, element in enumerate(drawn):
        kind, attributes = element.path[-1], element.attributes
        label = attributes.get("label", "")
        shape = f"{kind} {n} ({label!r})"
        try:
            if not label:
                raise ValueError("needs a label; export it again")
            if kind not in OUTLINES:
                raise ValueError(
                    f"shapes of the kind {kind!r} have no area; draw one of {', '.join(OUTLINES)}, or delete it"
                )
            if kind == "box" and not given.boxes:
                raise ValueError("a box is seldom an object's outline; give --boxes to take it as one, or redraw it")
            order = _whole(attributes, "z_order") if "z_order" in attributes else 0
            yield order, Shape(label, OUTLINES[kind](attributes, size), shape)
        except ValueError as error:
            given.findings.error(f"{where}: {shape}: {error}")


def _polygon(attributes: Attributes, _size: Size) -> Segmentation:
    """points="x,y;x,y;..."."""
    text = attributes.get("points", "")
    pairs = [pair.split(",") for pair in text.split(";")]
    if any(len(pair) != 2 for pair in pairs):
        raise ValueError(f"points must be 'x,y;x,y;...', got {short(text)}")
    return [[_float(value) for pair in pairs for value in pair]]


def _box(attributes: Attributes, _size: Size) -> Segmentation:
    left, top, right, bottom = (_number(attributes, key) for key in ("xtl", "ytl", "xbr", "ybr"))
    return [rectangle(left, top, right, bottom, _number(attributes, "rotation", "0"))]


def _ellipse(attributes: Attributes, _size: Size) -> Segmentation:
    x, y, radius_x, radius_y = (_number(attributes, key) for key in ("cx", "cy", "rx", "ry"))
    return [ellipse(x, y, radius_x, radius_y, _number(attributes, "rotation", "0"))]


def _mask(attributes: Attributes, size: Size) -> Segmentation:
    """Runs along the rows of a box, the first one outside the mask."""
    left, top, columns, rows = (_whole(attributes, key) for key in ("left", "top", "width", "height"))
    check_window(left, top, columns, rows, size)
    texts = attributes.get("rle", "").split(",")
    runs = [int(text) if text.strip().isdecimal() and len(text) < 12 else -1 for text in texts]
    if min(runs) < 0 or sum(runs) != columns * rows:
        raise ValueError(f"rle must be runs that add up to {columns * rows} px, got {short(attributes.get('rle', ''))}")
    inside = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    return window_rle(inside.reshape(rows, columns), left, top, size)


OUTLINES: dict[str, Callable[[Attributes, Size], Segmentation]] = {
    "polygon": _polygon,
    "mask": _mask,
    "ellipse": _ellipse,
    "box": _box,
}


def _float(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not abs(value) < 1e9:
        raise ValueError(f"coordinates must be finite numbers, got {short(text)}")
    return value


def _number(attributes: Attributes, key: str, default: str = "") -> float:
    return _float(attributes.get(key, default))


def _whole(attributes: Attributes, key: str) -> int:
    text = attributes.get(key, "").strip()
    if not text.removeprefix("-").isdecimal() or len(text) > 12:
        raise ValueError(f"{key} must be a whole number, got {short(text)}; export it again")
    return int(text)
