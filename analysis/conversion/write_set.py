"""Converts a folder: reads it image by image, writes COCO and a data card, and reads the card as a run would.

Images stay where they are; the card names their folder. At any time one image's shapes are in memory, besides the list
of images.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

import yaml

from analysis.conversion.input_folder import InputFolder
from analysis.conversion.readers import READERS
from analysis.conversion.source import Shape, SourceImage, SourceSet
from analysis.conversion.stacking import cut_hidden
from trainables.data.card import DataProblems, is_background, read_card
from trainables.data.coco_writer import rle_fields
from trainables.data.index import Role
from trainables.data.masks import first_few
from trainables.data.raster import check_segmentation, segmentation_rle
from trainables.data.reader import read
from trainables.files import folder_made_whole

HIDDEN = "shape of which nothing is seen, left out"
NO_SHAPE = "image without a label"


class CocoStream:
    """One COCO file in the making: annotations are written as they come, images and categories at the end."""

    def __init__(self, stream: IO[str]) -> None:
        self.stream = stream
        self.images: list[dict[str, Any]] = []
        self.num_annotations = 0
        self.num_scored = 0  # annotations of classes that count
        stream.write('{"annotations": [')

    def add_image(self, image: SourceImage) -> int:
        """Returns the image's id."""
        entry = {"id": len(self.images), "file_name": image.name, "height": image.height, "width": image.width}
        self.images.append(entry)
        return len(self.images) - 1

    def add(self, image_id: int, category_id: int, shape: Shape, size: tuple[int, int]) -> None:
        """One shape of an image of size (H,W)."""
        rle = segmentation_rle(shape.segmentation, *size)
        place = {"id": self.num_annotations, "image_id": image_id, "category_id": category_id}
        fields = rle_fields(rle["counts"].decode("ascii"), *size) | {"segmentation": shape.segmentation}
        self.stream.write(("," if self.num_annotations else "") + "\n" + json.dumps(place | fields))
        self.num_annotations += 1

    def close(self, categories: Mapping[str, int]) -> None:
        """Write what describes the annotations; `categories` maps names to ids."""
        named = [{"id": number, "name": name} for name, number in categories.items()]
        self.stream.write(f'],\n"images": {json.dumps(self.images)},\n"categories": {json.dumps(named)}}}\n')


def convert(kind: str, root: Path, out: Path, *, boxes: bool, follow_links: bool) -> list[str]:
    """Convert a folder to `out`, which appears whole or not at all; returns the summary, line by line.

    Raises ValueError with everything that is wrong with the folder.
    """
    root = root.expanduser()
    if not root.is_dir():
        remedy = f"give the file's folder {root.parent}" if root.exists() else "correct the path"
        raise ValueError(f"IN must be a folder, got {root}; {remedy}")
    if out.exists():
        raise ValueError(f"--out must name a folder that does not exist yet, got {out}; remove it or name another")
    given = InputFolder(root.absolute(), boxes=boxes, follow_links=follow_links)
    found = READERS[kind](given)
    with folder_made_whole(out) as temporary:
        lines = _write(given, found, temporary)
        index = read(read_card(temporary / "data.yaml"))
    lines += [f"{index.num_classes} classes: {', '.join(index.classes)}"]
    counts = given.findings.counted() | dict(index.warnings)
    return [*lines, *(f"warning: {rule}: {count}" for rule, count in counts.items())]


def _write(given: InputFolder, found: SourceSet, out: Path) -> list[str]:
    """The files of the roles and the card. Raises DataProblems."""
    categories = {name: number for number, name in enumerate(found.labels, start=1)}
    files: dict[Role, CocoStream] = {}
    sources: dict[str, str] = {}  # image -> file of its labels
    with ExitStack() as stack:
        for image in found.images:
            if image.name in sources:
                given.findings.error(f"{image.source}: image {image.name!r} is in {sources[image.name]} too; keep one")
            sources[image.name] = image.source
            if image.role not in files:
                path = out / f"{image.role}.json"
                files[image.role] = CocoStream(stack.enter_context(path.open("w", encoding="utf-8")))
            _add(given, found, files[image.role], image, categories)
        for file in files.values():
            file.close(categories)
    if given.findings.errors:
        raise DataProblems(given.findings.errors)
    if not sources:
        raise ValueError(f"{given.root}: no image has labels; name the folder that holds both")
    card, lines = _card(given, found, files, categories, out)
    (out / "data.yaml").write_text(yaml.safe_dump(card, sort_keys=False, allow_unicode=True), encoding="utf-8")
    left = sorted(set(given.images()) - set(sources))
    if left:
        lines.append(
            f"left out, unlisted or without labels: {len(left)} of {len(given.images())} images ({first_few(left)})"
        )
    return lines


def _add(
    given: InputFolder, found: SourceSet, file: CocoStream, image: SourceImage, categories: dict[str, int]
) -> None:
    """One image and what is seen of its shapes."""
    number, size = file.add_image(image), (image.height, image.width)
    sound: list[Shape] = []
    for shape in image.shapes:
        try:
            check_segmentation(shape.segmentation, *size)
            sound.append(shape)
        except ValueError as error:
            given.findings.error(f"{image.source}: {image.name}: {shape.where}: {error}")
    if not image.shapes:
        given.findings.warn(f"{image.role}.json", NO_SHAPE, image.name)
    kept = [shape.segmentation for shape in sound]
    for shape, seen in zip(sound, cut_hidden(kept, *size) if found.stacked else kept, strict=True):
        if seen is None:
            given.findings.warn(f"{image.role}.json", HIDDEN, f"{image.name}: {shape.where}")
            continue
        category = categories.setdefault(shape.label, len(categories) + 1)
        file.add(number, category, Shape(shape.label, seen, shape.where), size)
        file.num_scored += shape.label not in found.ignored and not (found.background and is_background(shape.label))


def _card(
    given: InputFolder,
    found: SourceSet,
    files: Mapping[Role, CocoStream],
    categories: Mapping[str, int],
    out: Path,
) -> tuple[dict[str, Any], list[str]]:
    """The card's values, and one line for each part. A val or test without a label is listed as unlabelled."""
    images = os.path.relpath(given.root, out.resolve())
    card: dict[str, Any] = {"name": given.root.resolve().name}
    lines, unlabelled = [], []
    for role, file in files.items():
        part = {"coco": f"{role}.json", "images": images}
        shown: str = role
        if role == "train" or file.num_scored:
            card[role] = part
        else:
            unlabelled.append(part)
            shown = f"{role}, which has no label of a class, as unlabelled"
        lines.append(f"{shown}: {len(file.images)} images, {file.num_annotations} annotations")
    card |= {"unlabelled": unlabelled} if unlabelled else {}
    card |= {"ignore": ignored} if (ignored := [name for name in categories if name in found.ignored]) else {}
    card |= {"background": found.background} | ({"follow_links": True} if given.follow_links else {})
    return card, lines
