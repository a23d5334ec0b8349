"""Reads and writes lists of corrections, and writes corrected COCO files and masks. The originals are never touched.

The corrected data card reads the images where they are.
"""

from __future__ import annotations

import copy
import csv
import io
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, cast

import yaml

from analysis.label_errors.confident_learning import Suspect
from analysis.label_errors.corrected_masks import Row, write_masks
from analysis.report.html import write_text
from trainables.csv_cells import escaped, unescaped
from trainables.data.card import CocoPart, DataCard, ImagePart, MaskPart
from trainables.data.coco import CocoFile, coco_id, load_coco
from trainables.data.coco_writer import rle_fields
from trainables.data.index import Role, SegIndex
from trainables.data.label_sources import label_source

COLUMNS = (
    "action", "image_id", "annotation_id", "given", "suggested", "suspicion", "area_px", "x", "y", "width", "height",
    "rle",
)  # fmt: skip
ACTIONS = ("relabel", "remove", "add")
MAX_FAULTS = 50  # in one message


def csv_rows(suspects: Iterable[Suspect]) -> str:
    """The list with its header. Text like a formula has an apostrophe before it, which `read_list` takes off."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(COLUMNS)
    for s in suspects:
        own_id = "" if s.annotation_id is None else s.annotation_id
        cells = [s.kind, s.image_id, own_id, s.given, s.suggested, f"{s.suspicion:.4f}", s.area_px, *s.box, s.counts]
        writer.writerow([escaped(cell) for cell in cells])
    return buffer.getvalue()


def read_list(path: Path, index: SegIndex) -> list[dict[str, str]]:
    """The rows of a list, checked against the data. Raises ValueError with the rows that are wrong."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            missing = [
                c for c in ("action", "image_id", "annotation_id", "suggested") if c not in (reader.fieldnames or ())
            ]
            rows = [
                {key: unescaped(cell) if isinstance(cell, str) else cell for key, cell in row.items()} for row in reader
            ]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path}: the list cannot be read ({error}); take rows of suspects.csv") from error
    if missing:
        raise ValueError(f"{path}: the list must have the columns of suspects.csv, lacks {', '.join(missing)}")

    @cache
    def ids_of(image_id: str) -> set[str]:
        record = records.get(image_id)
        return {str(each.annotation_id) for each in label_source(index, record).objects()} if record else set()

    records, faults, used = index.by_id(), [], Counter[tuple[str, str]]()
    for line, row in enumerate(rows, start=2):
        record = records.get(row["image_id"])
        ids = ids_of(row["image_id"])
        used[row["image_id"], row["annotation_id"]] += row["action"] != "add"
        if row["action"] not in ACTIONS:
            faults.append(f"{path}:{line}: action must be one of {', '.join(ACTIONS)}, got {row['action']!r}")
        elif record is None:
            faults.append(f"{path}:{line}: image {row['image_id']!r} is not in the data")
        elif row["action"] != "add" and row["annotation_id"] not in ids:
            faults.append(f"{path}:{line}: image {row['image_id']!r} has no annotation {row['annotation_id']!r}")
        elif row["action"] != "add" and used[row["image_id"], row["annotation_id"]] > 1:
            faults.append(f"{path}:{line}: annotation {row['annotation_id']} is listed twice; keep one row")
        elif row["action"] != "remove" and row["suggested"] not in index.classes[index.background :]:
            faults.append(f"{path}:{line}: suggested must be a class of the data, got {row['suggested']!r}")
        elif row["action"] == "add" and not _fits(row.get("rle") or "", record.height, record.width):
            faults.append(f"{path}:{line}: rle must be a region of {record.width} x {record.height} px")
    if faults:
        more = [f"and {len(faults) - MAX_FAULTS} more rows"] if len(faults) > MAX_FAULTS else []
        raise ValueError("\n".join([*faults[:MAX_FAULTS], *more]))
    return rows


@dataclass(frozen=True)
class CorrectedPart:
    """A part of the card with rows to apply: where it is written, what the card then says of it, and how."""

    target: Path
    in_card: dict[str, str]
    rows: list[Row]
    write: Callable[[], None]


def apply_list(card: DataCard, index: SegIndex, rows: Iterable[Row], out: Path) -> dict[str, int]:
    """Write corrected files and data.yaml into `out`; how many rows of each action were applied.

    Raises ValueError where `out` holds one of the card's own files.
    """
    edits: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        edits[row["image_id"]].append(row)
    values = card.as_yaml()
    changed: list[CorrectedPart] = []
    for role, parts in card.parts().items():
        for number, part in enumerate(parts):
            stem = out / (role if len(parts) == 1 else f"{role}-{number}")
            corrected = CORRECTED[type(part)](card, index, cast(Role, role), part, edits, stem)
            if corrected is not None:
                values[role][number] = corrected.in_card
                changed.append(corrected)
    _refuse_originals(card, [each.target for each in changed], out)
    for each in changed:
        each.write()
    write_text(out / "data.yaml", yaml.safe_dump(values, sort_keys=False, allow_unicode=True))
    return dict(Counter(row["action"] for each in changed for row in each.rows))


def _refuse_originals(card: DataCard, targets: list[Path], out: Path) -> None:
    originals = {part.place.resolve() for parts in card.parts().values() for part in parts}
    for target in (*targets, out / "data.yaml"):
        if target.resolve() in originals or (target.name == "data.yaml" and target.exists()):
            raise ValueError(
                f"--out must not hold the original files, got {out} with its {target.name}; use a new folder"
            )


def _correct_coco(
    card: DataCard, _: SegIndex, role: Role, part: CocoPart, edits: Mapping[str, list[Row]], stem: Path
) -> CorrectedPart | None:
    file, target = load_coco(role, part, card), stem.with_suffix(".json")
    rows = [row for image_id in _ids(file) for row in edits.get(image_id, ())]

    def write() -> None:
        content = json.loads(file.path.read_bytes())
        write_text(target, json.dumps(_corrected(content, rows, file), ensure_ascii=False))

    in_card = {"coco": str(target.resolve()), "images": str(file.folder.folder)}
    return CorrectedPart(target, in_card, rows, write) if rows else None


def _correct_masks(
    _card: DataCard, index: SegIndex, _: Role, part: MaskPart, edits: Mapping[str, list[Row]], stem: Path
) -> CorrectedPart | None:
    folder = stem.with_name(f"{stem.name}-masks")
    inside = [i.image_id for i in index.images if i.mask is not None and i.mask.path.is_relative_to(part.masks)]
    rows = [row for image_id in inside for row in edits.get(image_id, ())]
    in_card = {"images": str(part.images), "masks": str(folder.resolve())}
    write = partial(write_masks, index, part, edits, folder)
    return CorrectedPart(folder, in_card, rows, write) if rows else None


CORRECTED: dict[type, Callable[..., CorrectedPart | None]] = {
    CocoPart: _correct_coco,
    MaskPart: _correct_masks,
    ImagePart: lambda *_: None,  # no labels
}


def _ids(file: CocoFile) -> dict[str, dict[str, Any]]:
    return {file.folder.image_id(entry["file_name"]): entry for entry in file.images}


def _corrected(content: Mapping[str, Any], edits: Iterable[Mapping[str, str]], file: CocoFile) -> dict[str, Any]:
    fresh = copy.deepcopy(dict(content))
    category = {entry["name"]: entry["id"] for entry in fresh["categories"]}
    image = _ids(file)
    by_id = {str(coco_id(entry["id"])): entry for entry in fresh["annotations"]}
    removed: set[str] = set()
    next_id = max(map(int, by_id), default=-1) + 1
    for row in edits:
        if row["action"] == "remove":
            removed.add(row["annotation_id"])
        elif row["action"] == "relabel":
            by_id[row["annotation_id"]]["category_id"] = category[row["suggested"]]
        else:
            entry = image[row["image_id"]]
            place = {"id": next_id, "image_id": entry["id"], "category_id": category[row["suggested"]]}
            fresh["annotations"].append(place | rle_fields(row["rle"], int(entry["height"]), int(entry["width"])))
            next_id += 1
    fresh["annotations"] = [entry for entry in fresh["annotations"] if str(coco_id(entry["id"])) not in removed]
    return fresh


def _fits(counts: str, height: int, width: int) -> bool:
    from trainables.data.raster import check_segmentation

    try:
        return bool(counts) and not check_segmentation({"size": [height, width], "counts": counts}, height, width)
    except ValueError:
        return False
