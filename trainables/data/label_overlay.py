"""A cache in which some images have other labels than the data set gives them: pseudo labels, or none that count."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from trainables.data.cache import Cache


class LabelOverlay(Cache):
    """`labels` says where the label of an image lies, a PNG of class indices; None: all of its pixels are ignored.

    Objects of these images are never pasted into others: they have no annotations.
    """

    def __init__(self, base: Cache, labels: Mapping[str, Path | None]) -> None:
        super().__init__(base.folder, base._index_file, base._index)
        self._base, self._overlaid = base, dict(labels)
        self._counted: dict[str, NDArray[np.int64]] = {}

    def __reduce__(self) -> tuple[type[LabelOverlay], tuple[Cache, dict[str, Path | None]]]:  # type: ignore[override]
        return (LabelOverlay, (self._base, self._overlaid))

    def label(self, image_id: str) -> NDArray[np.uint8]:
        """(H,W) of class indices, uint8. ValueError where a file is not there or has another size than its image."""
        if image_id not in self._overlaid:
            return super().label(image_id)
        path, size = self._overlaid[image_id], self.size(image_id)
        if path is None:
            return np.full(size, self.index.ignore_index, np.uint8)
        label = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        if label is None or label.dtype != np.uint8 or label.shape != size:
            found = "no such file" if label is None else f"{label.dtype} {label.shape}"
            raise ValueError(f"{path} must be the label of {image_id!r}, uint8 {size}, got {found}; write it again")
        return np.asarray(label, np.uint8)

    def class_pixels_by_image(self, ids: Sequence[str]) -> NDArray[np.int64]:
        """Labelled pixels of each class in each of these images: int64 (N,K)."""
        counts = np.zeros((len(ids), self.index.num_classes), np.int64)
        own = [row for row, image_id in enumerate(ids) if image_id not in self._overlaid]
        counts[own] = super().class_pixels_by_image([ids[row] for row in own])
        for row, image_id in enumerate(ids):
            if self._overlaid.get(image_id) is not None:
                counts[row] = self._count(image_id)
        return counts

    def _count(self, image_id: str) -> NDArray[np.int64]:
        if image_id not in self._counted:
            num_classes = self.index.num_classes
            self._counted[image_id] = np.bincount(self.label(image_id).ravel(), minlength=256)[:num_classes]
        return self._counted[image_id]
