"""Split files that runs can use: `python search/run.py --set split.file=split.json --set split.fold=2`.

A file lists image_ids, so it stays valid when labels are corrected; images that it does not list are left out.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trainables.data.index import SegIndex, Split
from trainables.data.splits.make_split import (
    PARTS,
    DecodedFacts,
    absent_classes,
    split_fingerprint,
    straddling,
    units_of,
)
from trainables.files import write_text
from trainables.plain_json import parse_json

FORMAT = "segsearch-split/1"


def write_split(path: Path, index: SegIndex, split: Split, folds: Sequence[Sequence[str]], *, seed: int) -> None:
    """Write the file, whole or not at all."""
    content = {
        "format": FORMAT,
        "data": index.name,
        "data_fingerprint": index.fingerprint,
        "fingerprint": split.fingerprint,
        "seed": seed,
        "notes": list(split.notes),
        "train": list(split.train_ids),
        "val": list(split.val_ids),
        "holdout": list(split.holdout_ids),
        "folds": [list(fold) for fold in folds],
    }
    write_text(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def read_split(path: Path, index: SegIndex, fold: int | None = None, *, known: DecodedFacts | None = None) -> Split:
    """The split of a file; with `fold`, that fold tunes and the other folds train, and notes are made anew.

    Raises ValueError for a file that is no split, names an image that the data has not (or has without labels), puts
    an image in two parts, leaves a part empty, or has no such fold.
    """
    content = _load(path)
    ids = {part: _strings(path, content, part) for part in PARTS}
    if fold is not None:
        folds = _folds(path, content)
        if not 0 <= fold < len(folds):
            raise ValueError(
                f"{path}: split.fold must name one of the file's {len(folds)} folds, counted from 0, got {fold}; "
                "write the file with --folds K"
            )
        parts = [list(one) for one in folds]
        ids["val"] = parts[fold]
        ids["train"] = [image_id for f, part in enumerate(parts) if f != fold for image_id in part]
    _check(path, index, ids)
    order = {image.image_id: n for n, image in enumerate(index.images)}
    kept = {part: tuple(sorted(ids[part], key=order.__getitem__)) for part in PARTS}
    notes = _strings(path, content, "notes") if "notes" in content else []
    if fold is not None:  # those of the file are about its own val
        part_of = {image_id: part for part in PARTS for image_id in kept[part]}
        notes = straddling(index, part_of, units_of(index, None)) + absent_classes(index, part_of, PARTS, known)
    if content.get("data_fingerprint") != index.fingerprint:
        notes.append(f"{path.name} was written for another state of this data set (its labels or images have changed)")
    return Split(kept["train"], kept["val"], kept["holdout"], split_fingerprint(index, kept), tuple(notes))


def read_folds(path: Path) -> tuple[tuple[str, ...], ...]:
    """The folds of a file, as image_ids; none where it has none."""
    return _folds(path, _load(path))


def _folds(path: Path, content: dict[str, Any]) -> tuple[tuple[str, ...], ...]:
    given = content.get("folds") or []
    if not isinstance(given, list):
        raise ValueError(f"{path}: folds must be a list of lists of image_ids, got {given!r:.60}; write the file again")
    return tuple(tuple(_strings(path, {"fold": one}, "fold")) for one in given)


def _load(path: Path) -> dict[str, Any]:
    try:
        content = parse_json(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: the split file cannot be read ({error}); write it with analysis/split.py") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        found = content.get("format") if isinstance(content, dict) else None
        raise ValueError(f"{path}: a split file has format {FORMAT!r}, got {found!r}; write it with analysis/split.py")
    return content


def _strings(path: Path, content: dict[str, Any], key: str) -> list[str]:
    value = content.get(key)
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise ValueError(f"{path}: {key} must be a list of image_ids, got {value!r:.60}; write the file again")
    return value


def _check(path: Path, index: SegIndex, ids: dict[str, list[str]]) -> None:
    roles = {image.image_id: image.role for image in index.images}
    seen: dict[str, str] = {}
    for part in PARTS:
        if not ids[part]:
            raise ValueError(f"{path}: {part} must hold at least one image, got none; write the file again")
        for image_id in ids[part]:
            if image_id not in roles or roles[image_id] == "unlabelled":
                why = "has no labels" if image_id in roles else "is not in the data"
                raise ValueError(f"{path}: {part} names image {image_id!r}, which {why}; write the split of this data")
            if image_id in seen:
                raise ValueError(f"{path}: image {image_id!r} is in {seen[image_id]} and {part}; keep it in one")
            seen[image_id] = part
