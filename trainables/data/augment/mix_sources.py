"""Other training images and their objects, for mixing; from the cache, never decoded again.

Only the ids to train on can be drawn. All tables are numpy arrays: forked workers share them, and reading them copies
no page.
"""

from __future__ import annotations

import json
import random
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from trainables.data.augment.crop import Pixels, base_factor, draw_window
from trainables.data.cache import Cache
from trainables.data.flip_pairs import swap_table
from trainables.data.index import Annotation
from trainables.data.label_sources import label_source
from trainables.data.raster import check_segmentation, segmentation_rle
from trainables.recipe.augmentation import Augmentation

MIN_OBJECT_PX = 64  # smaller ones vanish when they are scaled down
MIN_VISIBLE = 0.9  # of an object: what lies over it would be pasted with it
OBJECT_TRIES = 5


@dataclass(frozen=True)
class ObjectCutout:
    """One object cut out: image (h,w,3) uint8 and mask (h,w) uint8 of 0 and 1, at its own size; its class."""

    image: Pixels
    mask: Pixels
    class_index: int
    position: int  # of its image


class Sources:
    """The training images of a trial, as the mixing operators draw from them."""

    def __init__(self, cache: Cache, ids: Sequence[str], aug: Augmentation) -> None:
        self.cache = cache
        self.ids = tuple(ids)
        self._aug = aug
        self._check()
        index = cache.index
        self.background = index.background
        self.mirrored_class = swap_table(index.flip_pairs)  # (256,): of an object that is pasted mirrored
        self._shows = cache.class_pixels_by_image(self.ids) > 0  # (N,K)
        self._ends: dict[float, NDArray[np.float64]] = {}
        pasted = aug.copy_paste is not None and aug.copy_paste.p > 0
        self._objects = ObjectTable(cache, self.ids, aug.copy_paste.share_max) if pasted and aug.copy_paste else None

    def _check(self) -> None:
        aug = self._aug
        needs = {"mosaic": (aug.mosaic, 4), "cutmix": (aug.cutmix, 2), "classmix": (aug.classmix, 2)}
        for name, (mixed, images) in needs.items():
            if mixed is not None and mixed.p > 0 and len(self.ids) < images:
                raise ValueError(
                    f"augmentation.{name} needs {images} training images, got {len(self.ids)}; set its p to 0"
                )

    def probabilities(self, rare: float) -> NDArray[np.float64]:
        """The probability of drawing each image: (N,), with weight max over its classes c of f_c ** -rare, f_c the
        share of the images that show c (the repeat factors of Gupta et al. 2019, without their threshold)."""
        share = self._shows.mean(axis=0)  # (K,)
        factor = np.maximum(share, 1 / len(self.ids)) ** -rare  # (K,)
        weight = np.where(self._shows, factor, 1.0).max(axis=1)  # (N,)
        return np.asarray(weight / weight.sum(), np.float64)

    def draw(self, generator: random.Random, rare: float, taken: Collection[int] = ()) -> int:
        """The position of an image that is not `taken`."""
        if rare not in self._ends:
            self._ends[rare] = np.cumsum(self.probabilities(rare))
        ends = self._ends[rare]
        assert len(taken) < len(self.ids), "an image must be left to draw"
        while True:  # ends: each image has a probability above 0
            position = min(int(np.searchsorted(ends, generator.random() * ends[-1], side="right")), len(ends) - 1)
            if position not in taken:
                return position

    def crop(self, position: int, size_px: tuple[int, int], generator: random.Random) -> tuple[Pixels, Pixels]:
        """A window of an image at a random scale: image (h,w,3) and label (h,w)."""
        image, label = self.cache.image(self.ids[position]), self.cache.label(self.ids[position])
        height, width = label.shape
        scale = generator.uniform(self._aug.scale_min, self._aug.scale_max)
        factor = base_factor(height, width, self._aug.short_px) * scale
        window = draw_window((height, width), size_px, factor, generator)
        return window.cut_image(image), window.cut_label(label)

    def thing(self, generator: random.Random, rare: float) -> ObjectCutout | None:
        """An object that hardly anything covers; None where a few draws meet no such."""
        assert self._objects is not None, "copy_paste is off"
        for _ in range(OBJECT_TRIES):
            found = self._objects.cut_out(self._objects.draw(generator, rare))
            if found is not None:
                return found
        return None

    def resize_factor(self, position: int) -> float:
        """The factor by which `short_px` resizes an image, and so its objects."""
        return base_factor(*self.cache.size(self.ids[position]), self._aug.short_px)


class ObjectTable:
    """Every annotation of some images that can be pasted: whose, of which class, and its outline as JSON bytes."""

    def __init__(self, cache: Cache, ids: Sequence[str], share_max: float) -> None:
        self._cache, self._ids = cache, tuple(ids)
        records = cache.index.by_id()
        rows: list[tuple[int, int]] = []
        outlines: list[bytes] = []
        for position, image_id in enumerate(self._ids):
            record = records[image_id]
            most_px = share_max * record.height * record.width
            for each in label_source(cache.index, record).objects():
                known = each.class_index != cache.index.ignore_index
                if known and not each.iscrowd and MIN_OBJECT_PX <= each.area <= most_px:
                    rows.append((each.class_index, position))
                    outlines.append(_as_json(each))
        if not rows:
            raise ValueError(
                f"augmentation.copy_paste needs objects of {MIN_OBJECT_PX} pixels or more that cover at most share_max "
                f"{share_max} of their image, got none in {len(self._ids)} training images; raise share_max or set p "
                "to 0"
            )
        table = np.array(rows, np.int64)  # (O,2)
        order = np.argsort(table[:, 0], kind="stable")
        self._class, self._position = table[order].T  # (O,) each, by class
        self._outlines = np.frombuffer(b"".join(outlines[n] for n in order), np.uint8)
        self._starts = np.cumsum([0, *(len(outlines[n]) for n in order)])  # (O+1,)
        self.classes, self._first, self.counts = np.unique(self._class, return_index=True, return_counts=True)

    def class_probabilities(self, rare: float) -> NDArray[np.float64]:
        """Of `classes`: proportional to n_c ** (1 - rare)."""
        weight = self.counts.astype(np.float64) ** (1 - rare)
        return np.asarray(weight / weight.sum(), np.float64)

    def draw(self, generator: random.Random, rare: float) -> int:
        """An object: first its class, then one of that class."""
        at = generator.choices(range(len(self.classes)), self.class_probabilities(rare).tolist())[0]
        return int(self._first[at]) + generator.randrange(int(self.counts[at]))

    def cut_out(self, number: int) -> ObjectCutout | None:
        """The object with its bounding box, as much of it as its image shows; None where too much is covered."""
        position, class_index = int(self._position[number]), int(self._class[number])
        image_id = self._ids[position]
        outline = json.loads(self._outlines[self._starts[number] : self._starts[number + 1]].tobytes())
        mask, box = mask_in_box(outline, *self._cache.size(image_id))
        seen = mask & (self._cache.label(image_id)[box] == class_index)
        if not seen.any() or seen.sum() < MIN_VISIBLE * mask.sum():
            return None
        return ObjectCutout(self._cache.image(image_id)[box], seen.astype(np.uint8), class_index, position)


def mask_in_box(outline: Any, height: int, width: int) -> tuple[Pixels, tuple[slice, slice]]:
    """A segmentation's mask (h,w) in its bounding box, and the box's rows and columns in the image.

    Polygons are painted in their box alone: shifted by whole pixels, they give the mask that they have in the whole
    image, but for ties of rounding on the rim. Raises ValueError for one that the image cannot hold.
    """
    check_segmentation(outline, height, width)
    top = left = 0
    if isinstance(outline, list):
        points = np.array([each for part in outline for each in part], np.float64).reshape(-1, 2)  # (P,2): x, y
        low, high = np.floor(points.min(axis=0)).astype(int) - 1, np.ceil(points.max(axis=0)).astype(int) + 1
        left, top = (int(each) for each in np.clip(low, 0, (width - 1, height - 1)))
        right, bottom = (int(each) for each in np.clip(high, (left + 1, top + 1), (width, height)))
        width, height = right - left, bottom - top
        outline = [(np.reshape(part, (-1, 2)) - (left, top)).ravel().tolist() for part in outline]
    mask = np.ascontiguousarray(coco_mask.decode(segmentation_rle(outline, height, width)))
    x, y, w, h = cv2.boundingRect(mask)
    return mask[y : y + h, x : x + w], (slice(top + y, top + y + h), slice(left + x, left + x + w))


def _as_json(annotation: Annotation) -> bytes:
    def text(value: Any) -> str:
        assert isinstance(value, bytes), f"no JSON for {type(value).__name__}"
        return value.decode("ascii")  # the counts of an RLE

    return json.dumps(annotation.segmentation, default=text).encode()
