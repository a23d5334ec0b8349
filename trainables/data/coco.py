"""Reads a data card and its COCO files into one checked index; all problems of all files are raised at once.

- `image_id` is the `file_name`: the integer ids of different files may collide, and CamVid's do.
- Categories are matched by name across files; their order, and so the class indices, is train's by category id.
- An orientation tag is not applied: masks are painted on the stored pixels, whose size the JSON names.
- The size of an annotation is that of its mask, measured when all else is sound; the JSON's `area` decides nothing.
- `fingerprint` hashes the card's rules, the bytes of every JSON file, and of every image its length and its first
  and last 64 KiB: all of a usual photograph. Paths and dates are left out, so a moved data set keeps its
  fingerprint; an edit in the middle of a larger file that keeps its length to the byte is not seen.
"""

from __future__ import annotations

import hashlib
import json
import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from trainables.data.card import DataCard, DataProblems, Findings, near
from trainables.data.image_file import ImageFile, probe_image
from trainables.data.index import BACKGROUND, IGNORE_INDEX, Annotation, ImageRecord, Role, SegIndex
from trainables.data.mask_sizes import measure_masks
from trainables.data.raster import check_segmentation

__all__ = ["DataProblems", "read"]


@dataclass(frozen=True)
class CocoFile:
    """One parsed file of the card; `images` and `annotations` are COCO's own dictionaries."""

    role: Role
    name: str
    digest: str
    images: list[dict[str, Any]]
    annotations: list[dict[str, Any]]
    categories: list[dict[str, Any]]
    licences: list[str]


def read(card: DataCard) -> SegIndex:
    """Read every COCO file of the card and check it against the images. Raises DataProblems."""
    findings = Findings()
    files: list[CocoFile] = []
    for role, path in card.files().items():
        try:
            files.append(_load(cast(Role, role), path, card))
        except ValueError as error:
            findings.error(str(error))
    if findings.errors:  # nothing else can be checked of a set whose files are missing
        raise DataProblems(findings.errors)
    classes, class_of = _classes(card, files, findings)
    records: list[ImageRecord] = []
    seen: dict[Path, str] = {}
    for file in files:
        records += _records(card, file, class_of.get(file.role, {}), seen, findings)
    names = {file.role: file.name for file in files}
    digests = _check_images(records, names, findings)
    if findings.errors:
        raise DataProblems(findings.errors)
    records = measure_masks(records, names, findings)
    if findings.errors:
        raise DataProblems(findings.errors)
    stated = [card.licence] if card.licence else []
    return SegIndex(
        name=card.name,
        images=tuple(records),
        classes=classes,
        fingerprint=_fingerprint(card, classes, files, digests),
        grouped=card.group is not None,
        warnings=findings.counted(),
        licences=tuple(dict.fromkeys(stated + [name for file in files for name in file.licences])),
    )


def _load(role: Role, path: Path, card: DataCard) -> CocoFile:
    name = str(path.relative_to(card.root)) if path.is_relative_to(card.root) else str(path)
    try:
        raw = path.read_bytes()
        content = json.loads(raw)
    except OSError as error:
        raise ValueError(f"{name}: cannot be read ({error.strerror}); correct {role} in the card") from error
    except (ValueError, RecursionError) as error:  # broken JSON, or bytes that are no text
        raise ValueError(f"{name}: is not valid JSON ({error}); write it again") from error
    needed = ["images"] if role == "unlabelled" else ["images", "annotations", "categories"]
    lists: dict[str, list[dict[str, Any]]] = {}
    for key in ("images", "annotations", "categories", "licenses"):
        value = content.get(key) if isinstance(content, dict) else None
        sound = isinstance(value, list) and all(isinstance(entry, dict) for entry in value)
        if key in needed and not sound:
            raise ValueError(
                f"{name}: is not COCO, which has a list of objects under {key!r}; check {role} in the card"
            )
        lists[key] = cast(Any, value) if sound else []
    if not lists["images"]:
        raise ValueError(f"{name}: lists no image; leave {role} out of the card or fill it")
    if role != "unlabelled" and not lists["annotations"]:
        remedy = "label it" if role == "train" else f"leave {role} out of the card"
        raise ValueError(f"{name}: has no annotation, and {role} must be labelled; {remedy}, or name it `unlabelled`")
    licences = [str(entry["name"]) for entry in lists["licenses"] if entry.get("name")]
    digest = hashlib.blake2b(raw, digest_size=16).hexdigest()
    return CocoFile(role, name, digest, lists["images"], lists["annotations"], lists["categories"], licences)


def _classes(
    card: DataCard, files: list[CocoFile], findings: Findings
) -> tuple[tuple[str, ...], dict[Role, dict[object, int]]]:
    """The K class names, and for each labelled file its category id -> class index."""
    labelled = [file for file in files if file.role != "unlabelled"]
    roots = _unused_roots(card, labelled, findings)
    named = {file.role: _category_names(card, file, roots, findings) for file in labelled}
    train = [name for name in named["train"].values() if name != BACKGROUND or not card.background]
    for name in card.ignore:
        if name not in train:
            findings.error(f"ignore names {name!r}, which is no category of train{near(name, train)}")
    classes = [name for name in train if name not in card.ignore]
    if BACKGROUND in classes:
        findings.error(
            f"train has a category {BACKGROUND!r} while the card says background: false; set background: true "
            "(it becomes class 0, with the pixels under no annotation), ignore it, or rename it"
        )
    for role, names in named.items():
        other = [name for name in names.values() if name != BACKGROUND or not card.background]
        for name in sorted(set(other) - set(train)):
            findings.error(f"category {name!r} is in {role} and not in train{near(name, train)}")
        for name in sorted(set(train) - set(other)):
            findings.error(f"category {name!r} is in train and not in {role}{near(name, other)}")
    if card.background:
        classes.insert(0, BACKGROUND)
    if not 2 <= len(classes) <= IGNORE_INDEX:
        remedy = "check the categories" if card.background else "set background: true, or check the categories"
        shown = f" ({', '.join(classes)})" if len(classes) == 1 else ""
        findings.error(f"a data set needs 2 to {IGNORE_INDEX} classes, got {len(classes)}{shown}; {remedy}")
    index = {name: k for k, name in enumerate(classes)}
    return tuple(classes), {
        role: {key: index.get(name, IGNORE_INDEX) for key, name in names.items()} for role, names in named.items()
    }


def _unused_roots(card: DataCard, files: list[CocoFile], findings: Findings) -> set[str]:
    """Names of categories that exporters put above the classes: the `supercategory` of others, without an annotation
    in any file."""
    names: dict[str, str] = {}  # name -> the file that lists it first
    used: set[str] = set()
    above: set[str] = set()
    for file in files:
        with_pixels = {entry.get("category_id") for entry in file.annotations if _is_id(entry.get("category_id"))}
        for entry in file.categories:
            key, name, parent = entry.get("id"), entry.get("name"), entry.get("supercategory")
            if not isinstance(name, str):
                continue
            names.setdefault(name, file.name)
            if _is_id(key) and key in with_pixels:
                used.add(name)
            if isinstance(parent, str) and parent != name:
                above.add(parent)
    roots = {name for name in names if name in above and name not in used and name not in card.ignore}
    for name in roots:
        findings.warn(names[name], "supercategory of others without an annotation, no class", name)
    return roots


def _category_names(card: DataCard, file: CocoFile, roots: set[str], findings: Findings) -> dict[object, str]:
    """Category id -> name, in the order of the ids. A category for the background is spelt BACKGROUND."""
    names: dict[object, str] = {}
    for entry in file.categories:
        key, name = entry.get("id"), entry.get("name")
        if isinstance(name, str) and name in roots:
            continue
        if not _is_id(key) or not isinstance(name, str) or not name:
            findings.error(f"{file.name}: category {key!r}: needs an id and a name, got {name!r}")
            continue
        if card.background and name.strip("_ ").casefold() == BACKGROUND.casefold():
            findings.warn(file.name, "category taken as class 0, the background", name)
            name = BACKGROUND
        if key in names or name in names.values():
            findings.error(f"{file.name}: category {key!r} ({name!r}): its id or name is there twice; keep one")
        else:
            names[key] = name
    return dict(sorted(names.items(), key=lambda item: (isinstance(item[0], str), item[0])))


def _is_id(value: object) -> bool:
    return isinstance(value, int | str) and not isinstance(value, bool)


def _records(
    card: DataCard, file: CocoFile, class_of: dict[object, int], seen: dict[Path, str], findings: Findings
) -> list[ImageRecord]:
    """The images of one file in its order; `seen` (path -> where) finds one that is listed twice."""
    images: dict[object, ImageRecord | None] = {}
    for entry in file.images:
        key = entry.get("id")
        if not _is_id(key) or key in images:
            findings.error(f"{file.name}: image {key!r}: the id is missing or there twice; give each its own")
            continue
        try:
            images[key] = _record(card, file, entry, seen, findings)
        except ValueError as error:
            images[key] = None  # known, so that its annotations are not reported as well
            findings.error(f"{file.name}: image {key!r} ({entry.get('file_name')}): {error}")
    annotations = _annotations(file, images, class_of, findings)
    return [
        replace(record, annotations=tuple(annotations.get(key, ())))
        for key, record in images.items()
        if record is not None
    ]


def _record(
    card: DataCard, file: CocoFile, entry: dict[str, Any], seen: dict[Path, str], findings: Findings
) -> ImageRecord:
    name, height, width = entry.get("file_name"), entry.get("height"), entry.get("width")
    if not isinstance(name, str) or not name or "\0" in name:
        raise ValueError(f"needs a file_name, got {name!r}")
    if type(height) is not int or type(width) is not int or height < 1 or width < 1:
        raise ValueError(f"needs a height and a width in px, got {height!r} and {width!r}")
    path = card.root / name
    resolved = path.resolve()
    if Path(name).is_absolute() or ".." in Path(name).parts or not resolved.is_relative_to(card.root):
        raise ValueError(f"file_name leaves the root {card.root}; move the file under it or correct root")
    if resolved in seen:
        raise ValueError(f"the same file is {seen[resolved]}; list it once")
    seen[resolved] = f"{file.name}: image {entry['id']!r}"
    group = card.group_of(name)
    if group is None:
        findings.warn(file.name, "file_name without a match of group, a group of its own", name)
    return ImageRecord(name, path, height, width, group or name, file.role)


def _annotations(
    file: CocoFile,
    images: dict[object, ImageRecord | None],
    class_of: dict[object, int],
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
        key, image, category = entry.get("id"), entry.get("image_id"), entry.get("category_id")
        where = f"{file.name}: annotation {key!r}"
        if type(key) is not int or key in ids:
            findings.error(f"{where}: the id is missing, no whole number or there twice; give each its own")
            continue
        ids.add(key)
        if not _is_id(image) or image not in images:
            findings.error(f"{where}: unknown image {image!r}; list the image or remove the annotation")
        if not _is_id(category) or category not in class_of:
            findings.error(
                f"{where}: unknown category {category!r}; the categories of the file have {list(class_of)!r:.80}"
            )
            continue
        record = images.get(image) if _is_id(image) else None
        if record is not None:
            annotation = _annotation(file, entry, record, class_of[category], findings)
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


def _check_images(records: list[ImageRecord], files: dict[Role, str], findings: Findings) -> list[str]:
    """Look at every image file with a few threads; returns their digests in the order of `records`."""

    def look(record: ImageRecord) -> ImageFile | str:
        try:
            return probe_image(record.path)
        except (OSError, ValueError) as error:
            return str(error)

    digests = []
    with ThreadPoolExecutor(max_workers=8) as pool:  # they wait for the disk
        for record, found in zip(records, pool.map(look, records), strict=True):
            where = f"{files[record.role]}: image {record.image_id}"
            if isinstance(found, str):
                findings.error(f"{where}: {found}")
                continue
            digests.append(found.digest)
            if (found.height, found.width) != (record.height, record.width):
                turned = found.orientation > 4 and (found.width, found.height) == (record.height, record.width)
                findings.error(
                    f"{where}: the JSON says {record.width} x {record.height} px, the file has {found.width} x "
                    f"{found.height} px; "
                    + ("save it with its EXIF orientation applied" if turned else "correct the JSON or the file")
                )
            for rule in found.warnings:
                findings.warn(files[record.role], rule, record.image_id)
    return digests


def _fingerprint(card: DataCard, classes: tuple[str, ...], files: list[CocoFile], digests: list[str]) -> str:
    rules = {
        "format": 1,
        "classes": classes,
        "ignore": sorted(card.ignore),
        "background": card.background,
        "group": card.group,
        "files": [(file.role, file.digest) for file in files],
        "images": digests,
    }
    return hashlib.blake2b(json.dumps(rules).encode(), digest_size=12).hexdigest()
