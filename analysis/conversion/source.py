"""What every reader of a foreign format hands over: images with their shapes, and how these are painted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from trainables.data.index import Role
from trainables.data.raster import Segmentation

ROLE_OF_FOLDER: Mapping[str, Role] = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "holdout",
}


@dataclass(frozen=True)
class Shape:
    """One labelled region. `where` names it in messages: 'shape 3'."""

    label: str
    segmentation: Segmentation
    where: str


@dataclass(frozen=True)
class SourceImage:
    """One image and its shapes, later ones on top where the set says so. `source` is the file of its labels."""

    name: str  # relative to the folder that is converted
    source: str
    role: Role
    height: int
    width: int
    shapes: tuple[Shape, ...]


@dataclass(frozen=True)
class SourceSet:
    """A set in a foreign format. `images` reads them one by one."""

    images: Iterable[SourceImage]
    labels: tuple[str, ...] = ()  # those that the format lists, in its order; others follow as they are met
    ignored: frozenset[str] = frozenset()  # labels whose pixels count for nothing
    background: bool = True  # pixels under no shape are class 0; False: they are ignored
    stacked: bool = True  # later shapes lie over earlier ones; False: smaller ones over larger ones


def roles_of(names: Iterable[str]) -> dict[str, Role]:
    """The role of each file, by the first of its folders that is called train, val, test or alike.

    Everything is for training unless every file lies in such a folder and some lie in that of the training.
    """
    listed = list(names)
    found = {name: _role_of(name) for name in listed}
    sound = {name: role for name, role in found.items() if role is not None}
    if len(sound) == len(found) and "train" in sound.values():
        return sound
    return dict.fromkeys(listed, "train")


def _role_of(name: str) -> Role | None:
    folders = (folder.lower() for folder in PurePosixPath(name).parts[:-1])
    return next((ROLE_OF_FOLDER[folder] for folder in folders if folder in ROLE_OF_FOLDER), None)


def check_window(left: int, top: int, columns: int, rows: int, size: tuple[int, int]) -> None:
    """Raises ValueError for a part of an image of size (H,W) that is empty or does not lie in it."""
    if min(left, top) < 0 or min(columns, rows) < 1 or left + columns > size[1] or top + rows > size[0]:
        raise ValueError(
            f"a mask must lie in its image of {size[1]} x {size[0]} px, got {columns} x {rows} px at {left}, {top}"
        )


def window_rle(inside: NDArray[np.bool_], left: int, top: int, size: tuple[int, int]) -> Segmentation:
    """The RLE of a mask (h,w) that lies in an image of size (H,W) at this place."""
    mask = np.zeros(size, np.bool_)
    mask[top : top + inside.shape[0], left : left + inside.shape[1]] = inside
    return mask_rle(mask)


def mask_rle(mask: NDArray[np.bool_]) -> Segmentation:
    """The RLE of a mask (H,W)."""
    counts = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))["counts"].decode("ascii")
    return {"size": list(mask.shape), "counts": counts}


def label_map_shapes(values: NDArray[np.unsignedinteger], name_of: Mapping[int, str]) -> tuple[Shape, ...]:
    """One shape for each name in a label map (H,W).

    Raises ValueError with every value that has no name.
    """
    found = np.unique(values).tolist()
    unknown = [value for value in found if value not in name_of]
    if unknown:
        counts = ", ".join(f"{value} in {int((values == value).sum())} px" for value in unknown[:5])
        raise ValueError(f"values must be classes of the format, got {counts}{', ...' if len(unknown) > 5 else ''}")
    by_name: dict[str, list[int]] = {}
    for value in found:
        by_name.setdefault(name_of[value], []).append(value)
    return tuple(Shape(name, mask_rle(np.isin(values, own)), f"class {name!r}") for name, own in by_name.items())
