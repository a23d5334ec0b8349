"""The types that a data set travels in: images, classes, splits.

Nothing here opens a file. `reader.read` makes a `SegIndex`, `splits` makes a `Split`, `cache` turns both into arrays;
`label_sources` says how the labels of an image are had, whether its annotations or its mask give them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

Role = Literal["train", "val", "holdout", "unlabelled"]
IGNORE_INDEX = 255
BACKGROUND = "Background"  # class 0 where the card has a background; no category may be named so otherwise


@dataclass(frozen=True)
class Annotation:
    """One COCO annotation, its category already turned into a class index (IGNORE_INDEX: an `ignore` category)."""

    annotation_id: int
    class_index: int
    segmentation: list[list[float]] | dict[str, Any]  # polygons, or RLE (compressed or not)
    area: float  # pixels of its own mask, in an index; what the JSON claims (NaN: nothing) while that is read
    iscrowd: bool


@dataclass(frozen=True)
class MaskFile:
    """A label mask, and what was found in it when the data set was read."""

    path: Path
    digest: str  # of its bytes
    class_pixels: tuple[int, ...]  # (K,)


@dataclass(frozen=True)
class MaskValues:
    """The class index of each value in the masks of a data set; IGNORE_INDEX for those that count for nothing."""

    class_of: tuple[tuple[int, int], ...]  # (value, class index); a colour is 0xRRGGBB
    colours: bool


@dataclass(frozen=True)
class ImageRecord:
    """One image. `image_id` is its path under the card's root, unique in a data set and stable across files: the
    `file_name` of a COCO file, after the folder of the images where the card names one."""

    image_id: str
    path: Path
    height: int
    width: int
    group: str  # images of one group stay on one side of a split; the image_id where the card names none
    role: Role  # the file of the card that listed it
    annotations: tuple[Annotation, ...] = ()
    mask: MaskFile | None = None  # its labels in place of annotations


@dataclass(frozen=True)
class SegIndex:
    """A data set as its card describes it. Class k of `classes` has label k; ignored pixels have IGNORE_INDEX."""

    name: str
    images: tuple[ImageRecord, ...]
    classes: tuple[str, ...]  # (K,)
    fingerprint: str  # changes with any image file, annotation or rule of the card
    grouped: bool  # the card names groups
    ignore_index: int = IGNORE_INDEX
    warnings: Mapping[str, int] = field(default_factory=dict)  # rule -> how often
    licences: tuple[str, ...] = ()
    mask_values: MaskValues | None = None  # where masks give labels
    flip_pairs: tuple[tuple[int, int], ...] = ()  # class indices that change places where an image is mirrored

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    @property
    def background(self) -> bool:
        """Whether class 0 is the pixels under no annotation."""
        return self.classes[:1] == (BACKGROUND,)

    def ids(self, role: Role) -> tuple[str, ...]:
        return tuple(image.image_id for image in self.images if image.role == role)

    def by_id(self) -> dict[str, ImageRecord]:
        return {image.image_id: image for image in self.images}


@dataclass(frozen=True)
class Split:
    """Which images train, which are tuned on, and which stay sealed until the verdict."""

    train_ids: tuple[str, ...]
    val_ids: tuple[str, ...]
    holdout_ids: tuple[str, ...]
    fingerprint: str
    notes: tuple[str, ...] = ()  # what could not be had, in words (a class in one group only, ...)
