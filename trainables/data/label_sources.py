"""How the labels of an image are had: by painting its COCO annotations, or by decoding its mask.

Everything that reads labels goes through `label_source`; a new kind of label is a class here, a row in `SOURCES`, and
a case in the contract tests.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from trainables.data.index import Annotation, ImageRecord, SegIndex
from trainables.data.masks import read_mask
from trainables.data.raster import rasterise


class LabelSource(Protocol):
    """The labels of one image. Painting `objects` by `raster.rasterise` gives `label`, pixel for pixel."""

    def label(self) -> NDArray[np.uint8]:
        """The class indices (H,W). Raises ValueError where a file or an annotation cannot be read."""

    def objects(self) -> tuple[Annotation, ...]:
        """What lies on the background, each with an id of its own in the image. Of a mask, whose objects nobody told
        apart, the connected regions of a class; they are found anew at every call."""

    def named_classes(self) -> set[int]:
        """The classes that the labels name but for the background, whether they have a pixel or not."""

    def shown_classes(self) -> set[int]:
        """Those of them that have a pixel, though others may cover it; without decoding anything."""

    def class_areas(self) -> NDArray[np.float64]:
        """Pixels of each class (K,), without decoding anything: exact, or the sum of the annotations' own masks."""


@dataclass(frozen=True)
class AnnotationLabels:
    """COCO annotations."""

    index: SegIndex
    record: ImageRecord

    def label(self) -> NDArray[np.uint8]:
        return rasterise(self.record, self.index.ignore_index, background=self.index.background)

    def objects(self) -> tuple[Annotation, ...]:
        return self.record.annotations

    def named_classes(self) -> set[int]:
        return self._classes_of(self.record.annotations)

    def shown_classes(self) -> set[int]:
        return self._classes_of(each for each in self.record.annotations if each.area > 0)

    def _classes_of(self, annotations: Iterable[Annotation]) -> set[int]:
        hidden = {self.index.ignore_index, *([0] if self.index.background else [])}
        return {each.class_index for each in annotations} - hidden

    def class_areas(self) -> NDArray[np.float64]:
        areas = np.zeros(self.index.num_classes)
        for annotation in self.record.annotations:
            if annotation.class_index != self.index.ignore_index:
                areas[annotation.class_index] += annotation.area
        if self.index.background:
            areas[0] += max(0.0, self.record.height * self.record.width - areas.sum())
        return areas


@dataclass(frozen=True)
class MaskLabels:
    """A label mask."""

    index: SegIndex
    record: ImageRecord

    def label(self) -> NDArray[np.uint8]:
        mask, values = self.record.mask, self.index.mask_values
        assert mask is not None, "chosen by label_source"
        assert values is not None, "masks come with their values"
        label = read_mask(mask.path, values)
        if label.shape != (self.record.height, self.record.width):
            found = f"{label.shape[1]} x {label.shape[0]}"
            raise ValueError(
                f"{mask.path}: the index says {self.record.width} x {self.record.height} px, the mask has {found}; "
                "read the data set again"
            )
        return label

    def objects(self) -> tuple[Annotation, ...]:
        return regions(self.label(), background=self.index.background, ignore_index=self.index.ignore_index)

    def named_classes(self) -> set[int]:
        return self.shown_classes()

    def shown_classes(self) -> set[int]:
        return set(np.flatnonzero(self.class_areas()).tolist()) - ({0} if self.index.background else set())

    def class_areas(self) -> NDArray[np.float64]:
        assert self.record.mask is not None, "chosen by label_source"
        return np.asarray(self.record.mask.class_pixels, np.float64)


SOURCES: dict[str, type[AnnotationLabels] | type[MaskLabels]] = {"annotations": AnnotationLabels, "mask": MaskLabels}


def label_source(index: SegIndex, record: ImageRecord) -> LabelSource:
    """Where the labels of an image of the index come from."""
    return SOURCES["annotations" if record.mask is None else "mask"](index, record)


def regions(label: NDArray[np.uint8], *, background: bool, ignore_index: int) -> tuple[Annotation, ...]:
    """The connected regions (8 neighbours) of a label map (H,W) as annotations, numbered from 1 by class and place.

    Left out is what painting leaves under no annotation: class 0 with a background, else ignored pixels.
    """
    owner = np.zeros(label.shape, np.int32)
    class_of = [0]  # of each region; the first is what was left out
    for k in np.unique(label).tolist():
        if k == (0 if background else ignore_index):
            continue
        num, components = cv2.connectedComponents((label == k).astype(np.uint8), connectivity=8, ltype=cv2.CV_32S)
        owner += np.where(components > 0, components + np.int32(len(class_of) - 1), 0)
        class_of += [k] * (num - 1)
    return tuple(
        Annotation(number, class_of[number], rle, float(area), iscrowd=False)
        for number, (rle, area) in enumerate(_rles(owner, len(class_of)), start=1)
    )


def _rles(owner: NDArray[np.int32], num_regions: int) -> list[tuple[dict[str, object], int]]:
    """The compressed RLE and the area of regions 1 to num_regions - 1 of a map (H,W), from its runs in one pass."""
    height, width = owner.shape
    flat = owner.ravel(order="F")
    starts = np.flatnonzero(np.diff(flat, prepend=np.int32(-1)))  # (R,)
    lengths = np.diff(starts, append=flat.size)
    order = np.argsort(flat[starts], kind="stable")
    bounds = np.searchsorted(flat[starts][order], np.arange(num_regions + 1))
    found: list[tuple[dict[str, object], int]] = []
    for region in range(1, num_regions):
        own = order[bounds[region] : bounds[region + 1]]
        edges = np.stack([starts[own], starts[own] + lengths[own]], axis=1).ravel()
        counts = np.diff(edges, prepend=0, append=flat.size)
        rle = coco_mask.frPyObjects({"size": [height, width], "counts": counts.tolist()}, height, width)
        form = {"size": [height, width], "counts": rle["counts"].decode("ascii")}
        found.append((form, int(lengths[own].sum())))
    return found
