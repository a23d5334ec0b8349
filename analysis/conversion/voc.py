"""Reads Pascal VOC's SegmentationClass: PNG masks, by the palette of VOC's classes or the colours of labelmap.txt.

ImageSets/Segmentation says which images are for training, val and test; without it all masks are for training. The
border (255) is the class 'void', which counts for nothing. Boxes in Annotations are not read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath

from analysis.conversion.input_folder import InputFolder, stem
from analysis.conversion.source import ROLE_OF_FOLDER, SourceImage, SourceSet, label_map_shapes
from trainables.data.card import is_background
from trainables.data.class_table import ClassTable, read_table
from trainables.data.index import MaskValues, Role
from trainables.data.masks import DEFAULT_IGNORED, raw_values

MASKS, IMAGES, LISTS, TABLE = "SegmentationClass", "JPEGImages", "ImageSets/Segmentation", "labelmap.txt"
VOID = "void"
VOC_CLASSES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable",
    "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip


def read_voc(given: InputFolder) -> SourceSet:
    """The masks that the lists name. Raises ValueError for a folder without masks."""
    masks = {stem(PurePosixPath(name).relative_to(MASKS).as_posix()): name for name in given.files({".png"}, MASKS)}
    if not masks:
        raise ValueError(
            f"{given.root}: Pascal VOC has masks as PNG in {MASKS}, got a folder without one; boxes alone "
            "(Annotations/*.xml) are no outlines"
        )
    table = _table(given)
    names = dict(table.entries)
    if not table.colours:
        names.setdefault(DEFAULT_IGNORED, VOID)
    images = {stem(name.removeprefix(f"{IMAGES}/")): name for name in given.images() if name.startswith(f"{IMAGES}/")}
    values = MaskValues(tuple((value, n) for n, (value, _) in enumerate(table.entries)), table.colours)
    background = any(is_background(name) for name in table.names)
    return SourceSet(
        _read(given, _roles(given, masks), masks, images, (names, values)),
        labels=tuple(name for name in table.names if not (background and is_background(name))),
        ignored=frozenset({VOID} - set(table.names)),
        background=background,
    )


def _table(given: InputFolder) -> ClassTable:
    if not (given.root / TABLE).is_file():
        return ClassTable(entries=tuple(enumerate(VOC_CLASSES)), colours=False)
    given.folder.path_of(TABLE)
    return read_table(TABLE, given.root)


def _roles(given: InputFolder, masks: Mapping[str, str]) -> dict[str, Role]:
    """The role of each listed stem. An image of several lists (trainval) goes by the first of train, val and test."""
    roles: dict[str, Role] = {}
    lists = [name for name in given.files({".txt"}, LISTS) if PurePosixPath(name).stem in ROLE_OF_FOLDER]
    for source in sorted(lists, key=lambda name: list(ROLE_OF_FOLDER).index(PurePosixPath(name).stem)):
        try:
            listed = given.text(source).split()
        except ValueError as error:
            given.findings.error(f"{source}: {error}")
            continue
        for one in listed:
            if one not in masks:
                given.findings.error(f"{source}: {one!r} has no mask {MASKS}/{one}.png; add it, or take the name out")
            else:
                roles.setdefault(one, ROLE_OF_FOLDER[PurePosixPath(source).stem])
    return roles if lists else dict.fromkeys(masks, "train")


def _read(
    given: InputFolder,
    roles: Mapping[str, Role],
    masks: Mapping[str, str],
    images: Mapping[str, str],
    coding: tuple[Mapping[int, str], MaskValues],
) -> Iterator[SourceImage]:
    names, values = coding
    for one, role in roles.items():
        source = masks[one]
        try:
            if one not in images:
                raise ValueError(f"has no image {IMAGES}/{one}.jpg; add it, or take the mask out")
            raw = raw_values(given.root / source, values)
            shapes = label_map_shapes(raw, names)
        except (OSError, ValueError) as error:
            given.findings.error(f"{source}: {error}")
            continue
        file = given.image(images[one], source, raw.shape[:2], drawn=False)
        if file is not None:
            drawn = tuple(shape for shape in shapes if not is_background(shape.label))
            yield SourceImage(images[one], source, role, file.height, file.width, drawn)
