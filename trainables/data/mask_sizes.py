"""Measures every annotation by its own mask, once the image files have confirmed the sizes that the JSON claims.

Exporters give all kinds of `area`: 0, a negative one, that of the box or of the image. Whatever asks for the size of an
annotation (the order of painting, copy-paste, suspect labels, splits) reads the measured one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from pycocotools import mask as coco_mask

from trainables.data.card import Findings
from trainables.data.index import Annotation, ImageRecord
from trainables.data.raster import outline_px, segmentation_rle

NO_PIXEL = "annotation that paints no pixel"
FRACTIONS = "polygons within the first pixel, as shares of the image's sides would be"
OTHER_AREA = "area differs from the mask, whose own size is taken"
TOLERANCE = 0.1  # of the mask: splines and rounding


def measure_masks(name: str, records: Sequence[ImageRecord], findings: Findings) -> list[ImageRecord]:
    """The records of one part with `area` measured; what disagrees is warned of under the part's name.

    A part whose annotations all paint nothing, or all lie within the first pixel, is an error: its labels would be
    all background.
    """
    measured = []
    blank = total = 0
    for record in records:
        annotations = []
        for each in record.annotations:
            area = mask_px(each, record)
            rule = _rule(each, record, area)
            if rule is not None:
                findings.warn(name, rule, each.annotation_id)
            blank += rule in (NO_PIXEL, FRACTIONS)
            annotations.append(replace(each, area=area))
        total += len(annotations)
        measured.append(replace(record, annotations=tuple(annotations)))
    if blank and blank == total:
        findings.error(
            f"{name}: none of its {blank} annotations paints more than the first pixel; write coordinates in px "
            "(shares of the image, from 0 to 1, must be multiplied by its width and height)"
        )
    return measured


def mask_px(annotation: Annotation, record: ImageRecord) -> int:
    """The pixels of an annotation's mask, whatever lies over it."""
    return int(coco_mask.area(segmentation_rle(annotation.segmentation, record.height, record.width)))


def _rule(annotation: Annotation, record: ImageRecord, area: int) -> str | None:
    """The rule that the measured annotation breaks."""
    polygons = annotation.segmentation if isinstance(annotation.segmentation, list) else []
    if polygons and max(record.height, record.width) > 2:
        points = np.concatenate([np.asarray(part, np.float64) for part in polygons])
        if points.size and points.min() >= 0 and points.max() <= 1:
            return FRACTIONS
    if area == 0:
        return NO_PIXEL
    # An exporter may give the polygon's own area: the mask has the pixels that its outline touches besides.
    rim = outline_px(polygons)
    differs = abs(annotation.area - area) > rim + TOLERANCE * area  # False for NaN: no area was claimed
    return OTHER_AREA if differs else None
