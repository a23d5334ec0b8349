"""Reads one COCO file of a data card into records.

- `image_id` is the `file_name`, after the folder of the images where the card names one: the integer ids of different
  files may collide, and CamVid's do.
- An orientation tag is not applied: masks are painted on the stored pixels, whose size the JSON names.
- The size of an annotation is that of its mask, measured when all else is sound; the JSON's `area` decides nothing.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from trainables.data.card import CocoPart, DataCard, Findings, is_background
from trainables.data.foreign_formats import foreign_hint
from trainables.data.image_folder import ImageFolder
from trainables.data.index import BACKGROUND, Annotation, ImageRecord, MaskValues, Role
from trainables.data.loaded_part import CategoryUse
from trainables.data.raster import check_segmentation
from trainables.files import can_name_file
from trainables.plain_json import parse_json


@dataclass(frozen=True)
class CocoFile:
    """One parsed file of the card; `images` and `annotations` are COCO's own dictionaries."""

    role: Role
    name: str
    path: Path
    folder: ImageFolder
    file_digest: str
    images: list[dict[str, Any]]
    annotations: list[dict[str, Any]]
    categories: list[dict[str, Any]]
    licences: Sequence[str]

    def category_use(self) -> CategoryUse:
        """Of the categories of a labelled file."""
        if self.role == "unlabelled":
            return CategoryUse()
        named = {entry.get("name"): entry for entry in self.categories if isinstance(entry.get("name"), str)}
        with_pixels = {coco_id(entry.get("category_id")) for entry in self.annotations} - {None}
        above = [entry.get("supercategory") for name, entry in named.items() if entry.get("supercategory") != name]
        return CategoryUse(
            listed=frozenset(map(str, named)),
            used=frozenset(str(name) for name, entry in named.items() if coco_id(entry.get("id")) in with_pixels),
            above=frozenset(name for name in above if isinstance(name, str)),
        )

    def class_names(self, card: DataCard, roots: Collection[str], findings: Findings) -> dict[object, str] | None:
        """The categories by id; None of unlabelled images."""
        return None if self.role == "unlabelled" else _category_names(card, self, roots, findings)

    def records(
        self,
        class_of: Mapping[object, int],
        values: MaskValues | None,  # noqa: ARG002
        findings: Findings,
    ) -> list[ImageRecord]:
        """The images of the file in its order."""
        return _records(self, class_of, findings)

    def digest(self, records: Sequence[ImageRecord]) -> str:  # noqa: ARG002
        """Of the file's bytes, and of the folder that the ids of its images begin with."""
        prefix = self.folder.prefix
        return self.file_digest if prefix == "." else f"{self.file_digest} {prefix}"


def load_coco(role: Role, part: CocoPart, card: DataCard) -> CocoFile:
    """Parse one file. Raises ValueError for one that is missing, broken or no COCO."""
    path, name = part.coco, card.shown(part.coco)
    try:
        raw = path.read_bytes()
        content = parse_json(raw)
    except OSError as error:
        hint = foreign_hint(path, name)
        raise ValueError(f"{name}: cannot be read ({error.strerror}); correct {role} in the card{hint}") from error
    except ValueError as error:
        raise ValueError(f"{name}: is not valid JSON ({error}); write it again{foreign_hint(path, name)}") from error
    needed = ["images"] if role == "unlabelled" else ["images", "annotations", "categories"]
    lists: dict[str, list[dict[str, Any]]] = {}
    for key in ("images", "annotations", "categories", "licenses"):
        value = content.get(key) if isinstance(content, dict) else None
        sound = isinstance(value, list) and all(isinstance(entry, dict) for entry in value)
        if key in needed and not sound:
            raise ValueError(
                f"{name}: is not COCO, which has a list of objects under {key!r}; check {role} in the card"
                f"{foreign_hint(path, name)}"
            )
        lists[key] = cast(Any, value) if sound else []
    if not lists["images"]:
        raise ValueError(f"{name}: lists no image; leave {role} out of the card or fill it")
    licences = [str(entry["name"]) for entry in lists["licenses"] if entry.get("name")]
    digest = hashlib.blake2b(raw, digest_size=16).hexdigest()
    folder = ImageFolder(_folder_of(part, card, lists["images"]), card.root, follow_links=card.follow_links)
    return CocoFile(
        role, name, path, folder, digest, lists["images"], lists["annotations"], lists["categories"], licences
    )


def _folder_of(part: CocoPart, card: DataCard, images: list[dict[str, Any]]) -> Path:
    """What the file names are relative to: the part's folder, else the root, or the file's own folder where only that
    has any of the images."""
    if part.images is not None:
        return part.images
    names = [name for entry in images if isinstance(name := entry.get("file_name"), str) and can_name_file(name)]
    own = part.coco.parent
    if own == card.root or any((card.root / name).is_file() for name in names):
        return card.root
    return own if any((own / name).is_file() for name in names) else card.root


def _category_names(card: DataCard, file: CocoFile, roots: Collection[str], findings: Findings) -> dict[object, str]:
    """Category id -> name, in the order of the ids. A category for the background is spelt BACKGROUND."""
    names: dict[object, str] = {}
    for entry in file.categories:
        key, name = coco_id(entry.get("id")), entry.get("name")
        if isinstance(name, str) and name in roots:
            continue
        if key is None or not isinstance(name, str) or not name:
            findings.error(f"{file.name}: category {key!r}: needs an id and a name, got {name!r}")
            continue
        if card.background and is_background(name):
            findings.warn(file.name, "category taken as class 0, the background", name)
            name = BACKGROUND
        if key in names or name in names.values():
            findings.error(f"{file.name}: category {key!r} ({name!r}): its id or name is there twice; keep one")
        else:
            names[key] = name
    return dict(sorted(names.items(), key=lambda item: (isinstance(item[0], str), item[0])))


def coco_id(value: object) -> int | str | None:
    """An id as it is compared, whole numbers that were written as 3.0 among them; None for what is no id."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if isinstance(value, int | str) and not isinstance(value, bool) else None


def _records(file: CocoFile, class_of: Mapping[object, int], findings: Findings) -> list[ImageRecord]:
    """The images of one file in its order."""
    images: dict[object, ImageRecord | None] = {}
    for entry in file.images:
        key = coco_id(entry.get("id"))
        if key is None or key in images:
            findings.error(
                f"{file.name}: image {entry.get('id')!r}: the id is missing or there twice; give each its own"
            )
            continue
        try:
            images[key] = _record(file, entry)
        except ValueError as error:
            images[key] = None  # known, so that its annotations are not reported as well
            findings.error(f"{file.name}: image {key!r} ({entry.get('file_name')}): {error}")
    annotations = _annotations(file, images, class_of, findings)
    return [
        replace(record, annotations=tuple(annotations.get(key, ())))
        for key, record in images.items()
        if record is not None
    ]


def _record(file: CocoFile, entry: dict[str, Any]) -> ImageRecord:
    name, height, width = entry.get("file_name"), coco_id(entry.get("height")), coco_id(entry.get("width"))
    if not isinstance(name, str) or not name:
        raise ValueError(f"needs a file_name, got {name!r}")
    if type(height) is not int or type(width) is not int or height < 1 or width < 1:
        raise ValueError(f"needs a height and a width in px, got {entry.get('height')!r} and {entry.get('width')!r}")
    path, image_id = file.folder.path_of(name), file.folder.image_id(name)
    return ImageRecord(image_id, path, height, width, image_id, file.role)


def _annotations(
    file: CocoFile,
    images: dict[object, ImageRecord | None],
    class_of: Mapping[object, int],
    findings: Findings,
) -> dict[object, list[Annotation]]:
    """Image id -> its annotations in the order of the file."""
    by_image: dict[object, list[Annotation]] = {}
    if file.role == "unlabelled":
        for entry in file.annotations:
            findings.warn(file.name, "annotation of an unlabelled image, not read", entry.get("id"))
        return by_image
    ids: set[object] = set()
    for entry in file.annotations:
        key, image, category = (coco_id(entry.get(name)) for name in ("id", "image_id", "category_id"))
        where = f"{file.name}: annotation {entry.get('id')!r}"
        if type(key) is not int or key in ids:
            findings.error(f"{where}: the id is missing, no whole number or there twice; give each its own")
            continue
        ids.add(key)
        if image not in images:
            findings.error(f"{where}: unknown image {entry.get('image_id')!r}; list the image or remove the annotation")
        if category not in class_of:
            findings.error(
                f"{where}: unknown category {entry.get('category_id')!r}; "
                f"the categories of the file have {list(class_of)!r:.80}"
            )
            continue
        record = images.get(image)
        if record is not None:
            annotation = _annotation(file, entry | {"id": key}, record, class_of[category], findings)
            if annotation is not None:
                by_image.setdefault(image, []).append(annotation)
    return by_image


def _annotation(
    file: CocoFile, entry: dict[str, Any], record: ImageRecord, class_index: int, findings: Findings
) -> Annotation | None:
    segmentation, area = entry.get("segmentation"), entry.get("area")
    try:
        for rule in check_segmentation(segmentation, record.height, record.width):
            findings.warn(file.name, rule, entry["id"])
    except ValueError as error:
        findings.error(f"{file.name}: annotation {entry['id']} ({record.image_id}): {error}")
        return None
    claimed = math.nan if isinstance(area, bool) or not isinstance(area, int | float) else area
    return Annotation(entry["id"], class_index, cast(Any, segmentation), claimed, bool(entry.get("iscrowd")))
