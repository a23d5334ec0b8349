"""Reads and writes lists of corrections, and writes corrected COCO files. The originals are never touched.

The corrected data card reads the images where they are.
"""

from __future__ import annotations

import copy
import csv
import io
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, cast

import yaml

from analysis.label_errors.confident_learning import Suspect
from analysis.report.html import write_text
from trainables.data.card import CocoPart, DataCard
from trainables.data.coco import CocoFile, coco_id, load_coco
from trainables.data.coco_writer import rle_fields
from trainables.data.index import Role, SegIndex
from trainables.data.label_sources import label_source

COLUMNS = (
    "action", "image_id", "annotation_id", "given", "suggested", "suspicion", "area_px", "x", "y", "width", "height",
    "rle",
)  # fmt: skip
ACTIONS = ("relabel", "remove", "add")


def csv_rows(suspects: Iterable[Suspect]) -> str:
    """The list with its header."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(COLUMNS)
    for s in suspects:
        own_id = "" if s.annotation_id is None else s.annotation_id
        writer.writerow(
            [s.kind, s.image_id, own_id, s.given, s.suggested, f"{s.suspicion:.4f}", s.area_px, *s.box, s.counts]
        )
    return buffer.getvalue()


def read_list(path: Path, index: SegIndex) -> list[dict[str, str]]:
    """The rows of a list, checked against the data. Raises ValueError with every row that is wrong."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            missing = [
                c for c in ("action", "image_id", "annotation_id", "suggested") if c not in (reader.fieldnames or ())
            ]
            rows = list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path}: the list cannot be read ({error}); take rows of suspects.csv") from error
    if missing:
        raise ValueError(f"{path}: the list must have the columns of suspects.csv, lacks {', '.join(missing)}")
    records, faults, used = index.by_id(), [], Counter[tuple[str, str]]()
    for line, row in enumerate(rows, start=2):
        record = records.get(row["image_id"])
        ids = {str(a.annotation_id) for a in label_source(index, record).objects()} if record else set()
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
        raise ValueError("\n".join(faults[:50]))
    return rows


def apply_list(card: DataCard, index: SegIndex, rows: Iterable[Mapping[str, str]], out: Path) -> dict[str, int]:
    """Write corrected files and data.yaml into `out`; how many rows of each action were applied.

    Raises ValueError where `out` holds one of the card's own files, and for rows about masks: nothing says which of
    their regions are one object, so that they are corrected in an editor.
    """
    edits: dict[str, list[Mapping[str, str]]] = defaultdict(list)
    for row in rows:
        edits[row["image_id"]].append(row)
    masked = sorted({i.image_id for i in index.images if i.mask is not None} & edits.keys())
    if masked:
        raise ValueError(
            f"--apply corrects COCO files, and {len(masked)} of the listed images have masks "
            f"({', '.join(masked[:5])}); correct those masks in an editor, where suspects.html shows the place, "
            "and take the rows off the list"
        )
    values = card.as_yaml()
    done: Counter[str] = Counter()
    for role, file, target in _edited_files(card, edits, out):
        own = [row for name in _ids(file) for row in edits.get(name, ())]
        content = json.loads(file.path.read_bytes())
        write_text(target, json.dumps(_corrected(content, own, file), ensure_ascii=False))
        number = [part.place for part in card.parts()[role]].index(file.path)
        values[role][number] = {"coco": str(target.resolve()), "images": str(file.folder.folder)}
        done.update(row["action"] for row in own)
    write_text(out / "data.yaml", yaml.safe_dump(values, sort_keys=False, allow_unicode=True))
    return dict(done)


def _edited_files(card: DataCard, edits: Mapping[str, object], out: Path) -> list[tuple[Role, CocoFile, Path]]:
    """The COCO files that have an image of the edits, and where each is to be written."""
    found: list[tuple[Role, CocoFile, Path]] = []
    for name, parts in card.parts().items():
        role = cast(Role, name)
        for number, part in enumerate(parts):
            file = load_coco(role, part, card) if isinstance(part, CocoPart) else None
            if file is not None and edits.keys() & _ids(file).keys():
                stem = role if len(parts) == 1 else f"{role}-{number}"
                found.append((role, file, out / f"{stem}.json"))
    originals = {part.place.resolve() for parts in card.parts().values() for part in parts}
    for target in (*(target for _, _, target in found), out / "data.yaml"):
        if target.resolve() in originals or (target.name == "data.yaml" and target.exists()):
            raise ValueError(
                f"--out must not hold the original files, got {out} with its {target.name}; use a new folder"
            )
    return found


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
