"""Reads a data card into one checked index; all problems of all its parts are raised at once.

- Classes are matched by name across parts. Their order, and so the class indices, is that of the card's `classes` where
  it has them, else of the first train file by category id.
- `fingerprint` hashes the card's rules, the bytes of every JSON file and mask, and of every image its length and its
  first and last 64 KiB: all of a usual photograph. Paths and dates are left out, so a moved data set keeps its
  fingerprint; an edit in the middle of a larger file that keeps its length to the byte is not seen.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, cast

from trainables.data.card import (
    CocoPart,
    DataCard,
    DataProblems,
    Findings,
    ImagePart,
    MaskPart,
    near,
)
from trainables.data.coco import load_coco
from trainables.data.flip_pairs import flip_pairs
from trainables.data.folder_parts import card_classes, load_images, load_masks
from trainables.data.groups import groups_of
from trainables.data.image_file import ImageFile, probe_image
from trainables.data.index import BACKGROUND, IGNORE_INDEX, ImageRecord, MaskValues, Role, SegIndex
from trainables.data.label_sources import label_source
from trainables.data.loaded_part import LoadedPart
from trainables.data.mask_sizes import measure_masks
from trainables.data.masks import mask_values

__all__ = ["DataProblems", "read"]

LABELLED: tuple[Role, ...] = ("train", "val", "holdout")


Found = list[tuple[LoadedPart, list[ImageRecord]]]
LOADERS: dict[type, Callable[[Role, Any, DataCard, Findings], LoadedPart]] = {
    CocoPart: lambda role, part, card, _: load_coco(role, part, card),
    MaskPart: load_masks,
    ImagePart: load_images,
}


def read(card: DataCard) -> SegIndex:
    """Read every part of the card and check it against the images. Raises DataProblems."""
    findings = Findings()
    parts = _load_parts(card, findings)
    classes, class_of = _classes(card, parts, findings)
    values = _mask_values(card, classes)
    found: Found = []
    sound_roles = set(LABELLED)
    for part, keys in zip(parts, class_of, strict=True):
        before = len(findings.errors)
        found.append((part, part.records(keys, values, findings)))
        if len(findings.errors) > before:
            sound_roles.discard(part.role)  # labels may be missing because they are wrong, which was said
    found = _with_groups(card, found, findings)
    _refuse_doubles(found, findings)
    digests = _check_images(found, findings)
    if not findings.errors:  # the sizes are the files' own
        found = [(part, measure_masks(part.name, records, findings)) for part, records in found]
    stated = [card.licence] if card.licence else []
    index = SegIndex(
        name=card.name,
        images=tuple(record for _, records in found for record in records),
        classes=classes,
        fingerprint=_fingerprint(card, classes, found, digests),
        grouped=card.group is not None,
        licences=tuple(dict.fromkeys(stated + [name for part in parts for name in part.licences])),
        mask_values=values,
        flip_pairs=flip_pairs(card, classes, findings),
    )
    _refuse_roles_without_labels(index, found, sound_roles, findings)
    if findings.errors:
        raise DataProblems(findings.errors)
    return replace(index, warnings=findings.counted())


def _load_parts(card: DataCard, findings: Findings) -> list[LoadedPart]:
    """Raises DataProblems where a file cannot be parsed: nothing else can be checked of a set that lacks one."""
    loaded: list[LoadedPart] = []
    for role, parts in card.parts().items():
        for part in parts:
            try:
                loaded.append(LOADERS[type(part)](cast(Role, role), part, card, findings))
            except ValueError as error:
                findings.error(str(error))
    if len(loaded) < sum(map(len, card.parts().values())):
        raise DataProblems(findings.errors)
    return loaded


def _with_groups(card: DataCard, found: Found, findings: Findings) -> Found:
    """The records with the groups that the card gives them."""
    if card.group is None:
        return found
    try:
        groups = iter(groups_of(card.group, [record.image_id for _, records in found for record in records]))
    except ValueError as error:
        findings.error(str(error))
        return found
    grouped: Found = []
    for part, records in found:
        named = [(record, next(groups)) for record in records]
        for record, group in named:
            if group is None:
                findings.warn(part.name, "image without a match of group, a group of its own", record.image_id)
        grouped.append((part, [replace(record, group=group or record.image_id) for record, group in named]))
    return grouped


def _mask_values(card: DataCard, classes: Sequence[str]) -> MaskValues | None:
    if card.classes is None:
        return None
    index = {name: k for k, name in enumerate(classes)}
    index_of = {
        name: index.get(spelt, IGNORE_INDEX) for name, spelt in zip(card.classes.names, card_classes(card), strict=True)
    }
    return mask_values(card.classes, card.ignore_index, reduce_zero=card.reduce_zero_label, index=index_of)


def _classes(
    card: DataCard, parts: Sequence[LoadedPart], findings: Findings
) -> tuple[tuple[str, ...], list[dict[object, int]]]:
    """The K class names, and for each part its own key of a class -> class index (empty where it has no labels)."""
    roots = _unused_roots(card, parts, findings)
    named = [part.class_names(card, roots, findings) for part in parts]
    labelled = [(part, names) for part, names in zip(parts, named, strict=True) if names is not None]
    first = labelled[0][0]
    source, known = _label_of(first, parts), _without_background(card, labelled[0][1].values())
    if card.classes is not None:
        source, known = "the card's classes", _without_background(card, card_classes(card))
    for name in card.ignore:
        if name not in known:
            findings.error(f"ignore names {name!r}, which is no category of {source}{near(name, known)}")
    classes = [name for name in known if name not in card.ignore]
    if BACKGROUND in classes:
        findings.error(
            f"{source} has a category {BACKGROUND!r} while the card says background: false; set background: true "
            "(it becomes class 0, with the pixels under no annotation), ignore it, or rename it"
        )
    for part, names in labelled:
        where, other = _label_of(part, parts), _without_background(card, names.values())
        for name in sorted(set(other) - set(known)):
            findings.error(f"category {name!r} is in {where} and not in {source}{near(name, known)}")
        for name in sorted(set(known) - set(other)):
            findings.error(f"category {name!r} is in {source} and not in {where}{near(name, other)}")
    if card.background:
        classes.insert(0, BACKGROUND)
    _refuse_number_of_classes(card, classes, findings)
    index = {name: k for k, name in enumerate(classes)}
    return tuple(classes), [
        {key: index.get(name, IGNORE_INDEX) for key, name in (names or {}).items()} for names in named
    ]


def _refuse_number_of_classes(card: DataCard, classes: Sequence[str], findings: Findings) -> None:
    if not 2 <= len(classes) <= IGNORE_INDEX:
        remedy = "check the categories"
        if not card.background:
            named = "name the value that means the background" if card.classes is not None else "set background: true"
            remedy = f"{named}, or {remedy}"
        shown = f" ({', '.join(classes)})" if len(classes) == 1 else ""
        findings.error(f"a data set needs 2 to {IGNORE_INDEX} classes, got {len(classes)}{shown}; {remedy}")


def _unused_roots(card: DataCard, parts: Sequence[LoadedPart], findings: Findings) -> set[str]:
    """Names of categories that exporters put above the classes: the `supercategory` of others, without an annotation
    in any part. What the card names as a class of its masks is one."""
    uses = [part.category_use() for part in parts]
    above = {name for use in uses for name in use.above} - {name for use in uses for name in use.used}
    roots = {name for use in uses for name in use.listed} & above - {*card.ignore, *card_classes(card)}
    for name in sorted(roots):
        first = next(part.name for part, use in zip(parts, uses, strict=True) if name in use.listed)
        findings.warn(first, "supercategory of others without an annotation, no class", name)
    return roots


def _without_background(card: DataCard, names: Iterable[str]) -> list[str]:
    return [name for name in names if name != BACKGROUND or not card.background]


def _label_of(part: LoadedPart, parts: Sequence[LoadedPart]) -> str:
    """The role of a part, or its file where the role has several."""
    return part.role if sum(other.role == part.role for other in parts) == 1 else part.name


def _refuse_doubles(found: Found, findings: Findings) -> None:
    """An image that is listed twice, or two images of one id."""
    seen: dict[object, str] = {}
    for part, records in found:
        for record in records:
            where = f"{part.name}: image {record.image_id}"
            same = part.folder.identity(record.path)
            if same in seen:
                findings.error(f"{where}: the same file is {seen[same]}; list it once")
            elif record.image_id in seen:
                findings.error(
                    f"{where}: another file of that name is {seen[record.image_id]}; put both folders under one root"
                )
            seen.setdefault(same, where)
            seen.setdefault(record.image_id, where)


def _refuse_roles_without_labels(index: SegIndex, found: Found, roles: Collection[Role], findings: Findings) -> None:
    """Train, val and hold-out must show a class: what has no label at all would count as background only."""
    for role in (role for role in LABELLED if role in roles):
        records = [record for part, records in found if part.role == role for record in records]
        if records and not any(label_source(index, record).named_classes() for record in records):
            files = ", ".join(part.name for part, _ in found if part.role == role)
            remedy = (
                "annotate it"
                if role == "train"
                else (f"annotate it, or leave {role} out of the card, which carves it from train")
            )
            findings.error(
                f"{role}: {files} has no annotation of any class, so that all of its pixels would count as background "
                f"or as ignored; {remedy}, or name it under unlabelled"
            )


def _check_images(found: Found, findings: Findings) -> list[str]:
    """Look at every image file with a few threads; returns their digests in the order of the records."""
    owned = [(part, record) for part, records in found for record in records]

    def look(record: ImageRecord) -> ImageFile | str | None:
        try:
            return probe_image(record.path) if record.path.is_file() else None
        except (OSError, ValueError) as error:
            return str(error)

    digests = []
    with ThreadPoolExecutor(max_workers=8) as pool:  # they wait for the disk
        seen = pool.map(look, (record for _, record in owned))
        for (part, record), file in zip(owned, seen, strict=True):
            where = f"{part.name}: image {record.image_id}"
            if file is None:
                name = record.path.relative_to(part.folder.folder).as_posix()
                findings.error(f"{where}: {part.folder.why_missing(name)}")
            elif isinstance(file, str):
                findings.error(f"{where}: {file}")
            else:
                digests.append(file.digest)
                _check_size(part, record, file, where, findings)
    return digests


def _check_size(part: LoadedPart, record: ImageRecord, file: ImageFile, where: str, findings: Findings) -> None:
    if (file.height, file.width) != (record.height, record.width):
        turned = file.orientation > 4 and (file.width, file.height) == (record.height, record.width)
        said = "the JSON says" if record.mask is None else "its mask has"
        findings.error(
            f"{where}: {said} {record.width} x {record.height} px, the file has {file.width} x {file.height} px; "
            + (
                "save it with its EXIF orientation applied"
                if turned
                else f"correct the {'JSON' if record.mask is None else 'mask'} or the file"
            )
        )
    for rule in file.warnings:
        findings.warn(part.name, rule, record.image_id)


def _fingerprint(card: DataCard, classes: tuple[str, ...], found: Found, digests: list[str]) -> str:
    rules: dict[str, Any] = {
        "format": 1,
        "classes": classes,
        "ignore": sorted(card.ignore),
        "background": card.background,
        "group": card.group,
        "files": [(part.role, part.digest(records)) for part, records in found],
        "images": digests,
    }
    if card.classes is not None:
        masks = (card.classes.as_mapping(), card.ignore_index, card.reduce_zero_label)
        rules["masks"] = [list(masks[0].items()), *masks[1:]]
    if card.flip_pairs:
        rules["flip_pairs"] = card.flip_pairs
    return hashlib.blake2b(json.dumps(rules).encode(), digest_size=12).hexdigest()
