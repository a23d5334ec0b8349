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
from typing import Any

import yaml

from analysis.label_errors.confident_learning import Suspect
from analysis.report.html import write_text
from trainables.csv_cells import escaped, unescaped
from trainables.data.card import DataCard
from trainables.data.coco_writer import rle_fields
from trainables.data.index import SegIndex

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
        with path.open(newline="", encoding="utf-8") as file:
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
    records, faults, used = index.by_id(), [], Counter[tuple[str, str]]()
    for line, row in enumerate(rows, start=2):
        record = records.get(row["image_id"])
        ids = {str(a.annotation_id) for a in record.annotations} if record else set()
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


def apply_list(card: DataCard, index: SegIndex, rows: Iterable[Mapping[str, str]], out: Path) -> dict[str, int]:
    """Write corrected files and data.yaml into `out`; how many rows of each action were applied.

    Raises ValueError where `out` holds one of the card's own files.
    """
    by_role: dict[str, list[Mapping[str, str]]] = defaultdict(list)
    records = index.by_id()
    for row in rows:
        by_role[records[row["image_id"]].role].append(row)
    targets = {role: out / f"{role}.json" for role in by_role}
    originals = {path.resolve() for path in card.files().values()}
    for target in (*targets.values(), out / "data.yaml"):
        if target.resolve() in originals or (target.name == "data.yaml" and target.exists()):
            raise ValueError(
                f"--out must not hold the original files, got {out} with its {target.name}; use a new folder"
            )
    done: Counter[str] = Counter()
    for role, edits in by_role.items():
        content = json.loads(card.files()[role].read_bytes())
        write_text(targets[role], json.dumps(_corrected(content, edits), ensure_ascii=False))
        done.update(row["action"] for row in edits)
    values = card.model_dump(mode="json", exclude_none=True) | {
        role: str(path.resolve()) for role, path in targets.items()
    }
    write_text(out / "data.yaml", yaml.safe_dump(values, sort_keys=False, allow_unicode=True))
    return dict(done)


def _corrected(content: Mapping[str, Any], edits: Iterable[Mapping[str, str]]) -> dict[str, Any]:
    fresh = copy.deepcopy(dict(content))
    category = {entry["name"]: entry["id"] for entry in fresh["categories"]}
    image = {entry["file_name"]: entry for entry in fresh["images"]}
    by_id = {str(entry["id"]): entry for entry in fresh["annotations"]}
    removed: set[str] = set()
    next_id = max((entry["id"] for entry in fresh["annotations"]), default=-1) + 1
    for row in edits:
        if row["action"] == "remove":
            removed.add(row["annotation_id"])
        elif row["action"] == "relabel":
            by_id[row["annotation_id"]]["category_id"] = category[row["suggested"]]
        else:
            entry = image[row["image_id"]]
            place = {"id": next_id, "image_id": entry["id"], "category_id": category[row["suggested"]]}
            fresh["annotations"].append(place | rle_fields(row["rle"], entry["height"], entry["width"]))
            next_id += 1
    fresh["annotations"] = [entry for entry in fresh["annotations"] if str(entry["id"]) not in removed]
    return fresh


def _fits(counts: str, height: int, width: int) -> bool:
    from trainables.data.raster import check_segmentation

    try:
        return bool(counts) and not check_segmentation({"size": [height, width], "counts": counts}, height, width)
    except ValueError:
        return False
