"""Reads Cityscapes: leftImg8bit, and gtFine or gtCoarse beside it.

An image's *_labelIds.png is taken where it is there, else its *_polygons.json, whose later objects lie over earlier
ones. Classes outside the benchmark's 19 count for nothing, as do pixels under no object; the card says so by name, and
can be changed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from reprlib import repr as short
from typing import Any

from analysis.conversion.input_folder import InputFolder
from analysis.conversion.source import Shape, SourceImage, SourceSet, label_map_shapes, roles_of
from trainables.data.index import MaskValues, Role
from trainables.data.masks import raw_values

IMAGES, LABELS = "leftImg8bit", ("gtFine", "gtCoarse")
NOTHING = "unlabeled"
# The position is the label id.
NAMES = (
    NOTHING, "ego vehicle", "rectification border", "out of roi", "static", "dynamic", "ground", "road", "sidewalk",
    "parking", "rail track", "building", "wall", "fence", "guard rail", "bridge", "tunnel", "pole", "polegroup",
    "traffic light", "traffic sign", "vegetation", "terrain", "sky", "person", "rider", "car", "truck", "bus",
    "caravan", "trailer", "train", "motorcycle", "bicycle",
)  # fmt: skip
PLATE = "license plate"  # id -1, 255 in a mask
OUTSIDE = frozenset(NAMES[:7]) | {"parking", "rail track", "guard rail", "bridge", "tunnel", "polegroup"}
IGNORED = OUTSIDE | {"caravan", "trailer", PLATE}
NAME_OF = dict(enumerate(NAMES)) | {255: PLATE}
VALUES = MaskValues(tuple((value, n) for n, value in enumerate(NAME_OF)), colours=False)


def read_cityscapes(given: InputFolder) -> SourceSet:
    """Every image with labels. Raises ValueError for a folder without images or without labels."""
    images = [name for name in given.images() if name.startswith(f"{IMAGES}/")]
    kind = next((name for name in LABELS if (given.root / name).is_dir()), None)
    if not images or kind is None:
        raise ValueError(f"{given.root}: Cityscapes has the folders {IMAGES} and {' or '.join(LABELS)}; unpack both")
    files = {suffix: set(given.files({suffix}, kind)) for suffix in (".png", ".json")}
    return SourceSet(
        _images(given, kind, roles_of(images), files),
        labels=tuple(name for name in NAMES if name not in IGNORED),
        ignored=IGNORED,
        background=False,
    )


def _images(
    given: InputFolder, kind: str, roles: Mapping[str, Role], files: Mapping[str, set[str]]
) -> Iterator[SourceImage]:
    for name, role in roles.items():
        place = f"{kind}/{name.removeprefix(f'{IMAGES}/').rpartition(f'_{IMAGES}')[0]}_{kind}"
        mask, polygons = f"{place}_labelIds.png", f"{place}_polygons.json"
        source = mask if mask in files[".png"] else polygons
        try:
            if source not in files[PurePosixPath(source).suffix]:
                raise ValueError(f"has neither {mask} nor {polygons}; add one, or take the image out")
            shapes, told = _from_mask(given, mask) if source == mask else _from_polygons(given, polygons)
        except (OSError, ValueError) as error:
            given.findings.error(f"{name}: {error}")
            continue
        file = given.image(name, source, told, drawn=False)
        if file is not None:
            yield SourceImage(name, source, role, file.height, file.width, shapes)


def _from_mask(given: InputFolder, source: str) -> tuple[tuple[Shape, ...], tuple[int, int]]:
    raw = raw_values(given.root / source, VALUES)
    shapes = label_map_shapes(raw, NAME_OF)
    return tuple(shape for shape in shapes if shape.label != NOTHING), (raw.shape[0], raw.shape[1])


def _from_polygons(given: InputFolder, source: str) -> tuple[tuple[Shape, ...], tuple[int, int]]:
    content = given.json_object(source)
    objects, height, width = (content.get(key) for key in ("objects", "imgHeight", "imgWidth"))
    if not isinstance(objects, list) or type(height) is not int or type(width) is not int:
        raise ValueError(f"{source} must have imgHeight, imgWidth and a list of objects")
    shapes = []
    for n, each in enumerate(objects):
        try:
            shape = _shape(n, each)
        except ValueError as error:
            given.findings.error(f"{source}: object {n}: {error}")
            continue
        if shape is not None:
            shapes.append(shape)
    return tuple(shapes), (height, width)


def _shape(n: int, each: Any) -> Shape | None:
    """None for an object that was deleted."""
    if not isinstance(each, dict):
        raise ValueError(f"must be an object, got {short(each)}")
    if each.get("deleted"):
        return None
    label, points = each.get("label"), each.get("polygon")
    if isinstance(label, str) and label not in NAME_OF.values():
        label = label.removesuffix("group")  # several that cannot be told apart: 'cargroup'
    if not isinstance(label, str) or label not in NAME_OF.values():
        raise ValueError(f"label must be one of Cityscapes', got {each.get('label')!r}")
    if not isinstance(points, list) or not all(isinstance(point, list) and len(point) == 2 for point in points):
        raise ValueError(f"polygon must be [x, y] pairs, got {short(points)}")
    return Shape(label, [[value for point in points for value in point]], f"object {n} ({label!r})")
