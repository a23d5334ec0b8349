"""Writes tiny sets in the formats of labelling tools, by hand, and reads what they were converted to."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from mask_sets import SIDE_PX
from numpy.typing import NDArray

from analysis.conversion.write_set import convert
from trainables.data.card import read_card
from trainables.data.label_sources import label_source
from trainables.data.reader import read

Labels = dict[str, NDArray[np.str_]]


def painted(*shapes: tuple[str, slice, slice], under: str = "Background") -> NDArray[np.str_]:
    """Class names (H,W): rectangles (name, rows, columns) over one another on `under`."""
    label = np.full(SIDE_PX, under, dtype="U32")
    for name, rows, columns in shapes:
        label[rows, columns] = name
    return label


def converted(kind: str, root: Path, *, boxes: bool = False) -> dict[str, Labels]:
    """Convert a folder, and read the labels as a run does: role -> image -> class names (H,W), '' where ignored."""
    out = root.parent / "converted"
    convert(kind, root, out, boxes=boxes, follow_links=False)
    index = read(read_card(out / "data.yaml"))
    names = np.array([*index.classes, *[""] * (256 - index.num_classes)])
    labels: dict[str, Labels] = {}
    for record in index.images:
        role = labels.setdefault(record.role, {})
        role[record.image_id.removeprefix(f"{root.name}/")] = names[label_source(index, record).label()]
    return labels


def assert_labels(found: Mapping[str, Labels], expected: Mapping[str, Mapping[str, NDArray[np.str_]]]) -> None:
    assert {role: set(labels) for role, labels in found.items()} == {r: set(labels) for r, labels in expected.items()}
    for role, labels in expected.items():
        for name, label in labels.items():
            np.testing.assert_array_equal(found[role][name], label, err_msg=name)


def rectangle(left: float, top: float, right: float, bottom: float) -> list[list[float]]:
    """Corners as [x, y] pairs."""
    return [[left, top], [right, top], [right, bottom], [left, bottom]]


def write_labelme(path: Path, image: str, shapes: list[dict[str, Any]], **more: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    height, width = SIDE_PX
    about = {"version": "5.5.0", "flags": {}, "shapes": shapes, "imagePath": image, "imageData": None}
    path.write_text(json.dumps(about | {"imageHeight": height, "imageWidth": width} | more), encoding="utf-8")


def labelme_shape(label: str, points: list[list[float]], kind: str = "polygon", **more: Any) -> dict[str, Any]:
    return {"label": label, "points": points, "group_id": None, "shape_type": kind, "flags": {}} | more
