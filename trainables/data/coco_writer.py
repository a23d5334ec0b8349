"""Collects images and masks as the content of one COCO file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask


class CocoWriter:
    """One COCO file in the making. Ids of images and annotations count from 0 in the order they were added."""

    def __init__(self) -> None:
        self.images: list[dict[str, Any]] = []
        self.annotations: list[dict[str, Any]] = []

    def add_image(self, file_name: str, height: int, width: int) -> int:
        """Returns the image's id."""
        image_id = len(self.images)
        self.images.append({"id": image_id, "file_name": file_name, "height": height, "width": width})
        return image_id

    def add_mask(self, image_id: int, category_id: int, mask: NDArray[np.bool_]) -> None:
        """A mask (H,W) becomes one annotation with a compressed RLE."""
        counts = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))["counts"].decode("ascii")
        place = {"id": len(self.annotations), "image_id": image_id, "category_id": category_id}
        self.annotations.append(place | rle_fields(counts, *mask.shape))

    def content(self, categories: Mapping[int, str]) -> dict[str, Any]:
        """The JSON value of the file; `categories` maps ids to names."""
        named = [{"id": category_id, "name": name} for category_id, name in categories.items()]
        return {"images": self.images, "annotations": self.annotations, "categories": named}


def rle_fields(counts: str, height: int, width: int) -> dict[str, Any]:
    """The fields of an annotation that follow from its compressed RLE: segmentation, area, bbox and iscrowd."""
    rle = {"size": [height, width], "counts": counts.encode("ascii")}
    return {
        "segmentation": {"size": [height, width], "counts": counts},
        "area": int(coco_mask.area(rle)),
        "bbox": coco_mask.toBbox(rle).tolist(),
        "iscrowd": 0,
    }
