"""Writes corrected label masks: the values of a region changed, everything else as it was."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from trainables.data.card import MaskPart
from trainables.data.index import IGNORE_INDEX, ImageRecord, MaskValues, SegIndex
from trainables.data.label_sources import label_source
from trainables.data.masks import raw_values
from trainables.data.raster import segmentation_mask

Row = Mapping[str, str]


def write_masks(index: SegIndex, part: MaskPart, edits: Mapping[str, Sequence[Row]], target: Path) -> None:
    """Copy the masks of a part to `target`, those with edits corrected. Raises ValueError where no value can be."""
    for record in index.images:
        if record.mask is None or not record.mask.path.is_relative_to(part.masks):
            continue
        path = target / record.mask.path.relative_to(part.masks)
        path.parent.mkdir(parents=True, exist_ok=True)
        if record.image_id in edits:
            _corrected(index, record, edits[record.image_id]).save(path.with_suffix(".png"))
        else:
            shutil.copyfile(record.mask.path, path)


def _corrected(index: SegIndex, record: ImageRecord, rows: Sequence[Row]) -> Image.Image:
    assert record.mask is not None, "only masks come here"
    assert index.mask_values is not None, "masks come with their values"
    raw = raw_values(record.mask.path, index.mask_values).copy()
    objects = {str(each.annotation_id): each.segmentation for each in label_source(index, record).objects()}
    for row in sorted(rows, key=lambda row: row["action"] == "add"):  # what is added lies on what was corrected
        size = (record.height, record.width)
        shape: Any = {"size": list(size), "counts": row.get("rle")} if row["action"] == "add" else None
        region = segmentation_mask(shape or objects[row["annotation_id"]], *size)
        raw[region.astype(bool)] = _value_of(index, index.mask_values, row)
    return _as_image(raw, record.mask.path, index.mask_values)


def _value_of(index: SegIndex, values: MaskValues, row: Row) -> int:
    """The first value that means the class a row asks for; of a removed region, the background or what is ignored."""
    removed = 0 if index.background else IGNORE_INDEX
    wanted = removed if row["action"] == "remove" else index.classes.index(row["suggested"])
    for value, k in values.class_of:
        if k == wanted:
            return value
    raise ValueError(
        f"image {row['image_id']!r}: a region can be removed where the masks have a value for background or for "
        "ignored pixels, and the card names none; relabel it, or give such a value a name that ignore lists"
    )


def _as_image(raw: NDArray[Any], original: Path, values: MaskValues) -> Image.Image:
    if values.colours:
        return Image.fromarray(np.stack([raw >> 16, (raw >> 8) & 255, raw & 255], axis=-1).astype(np.uint8))
    if raw.max(initial=0) > 255:
        return Image.fromarray(raw.astype(np.uint16))
    image = Image.fromarray(raw.astype(np.uint8))
    with Image.open(original) as old:
        if old.mode == "P" and (colours := old.getpalette()) is not None:
            image.putpalette(colours)  # the values stay, and so do their colours
    return image
