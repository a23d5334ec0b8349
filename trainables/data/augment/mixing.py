"""Mixes images: mosaic, CutMix, ClassMix, copy-paste.

A crop and its label come out in the same size. Mixing is a step of the training pipeline: its draws come from the
sample's own stream, and later steps (flips, geometry, colours) treat the mixed image as one.
"""

from __future__ import annotations

from typing import Any

import albumentations as A
import cv2
import numpy as np
from albumentations.core.type_definitions import Targets

from trainables.data.augment.crop import Pixels
from trainables.data.augment.mix_sources import ObjectCutout, Sources
from trainables.data.index import IGNORE_INDEX
from trainables.recipe.augmentation import Augmentation
from trainables.recipe.config import Config
from trainables.recipe.operators import ClassMix, CopyPaste, CutMix, Mosaic

PLACE_TRIES = 5
MIXED: dict[str, type[Config]] = {"mosaic": Mosaic, "cutmix": CutMix, "classmix": ClassMix, "copy_paste": CopyPaste}
Pair = tuple[Pixels, Pixels]  # image (h,w,3), label (h,w)


class Mix(A.DualTransform):
    """Call with sources= (a `Sources`) and position= (of the image in its ids). Takes the mixing sections of an
    `Augmentation` as plain mappings. `used` holds the positions that the last call drew parts from."""

    _targets = (Targets.IMAGE, Targets.MASK)

    def __init__(
        self,
        mosaic: dict[str, Any] | None = None,
        cutmix: dict[str, Any] | None = None,
        classmix: dict[str, Any] | None = None,
        copy_paste: dict[str, Any] | None = None,
        p: float = 1.0,
    ) -> None:
        super().__init__(p=p)
        self.mosaic, self.cutmix, self.classmix, self.copy_paste = mosaic, cutmix, classmix, copy_paste
        given = {"mosaic": mosaic, "cutmix": cutmix, "classmix": classmix, "copy_paste": copy_paste}
        self._mixed = {name: MIXED[name].model_validate(values) for name, values in given.items() if values is not None}
        self.used: list[int] = []

    @classmethod
    def of(cls, aug: Augmentation) -> Mix:
        given = (aug.mosaic, aug.cutmix, aug.classmix, aug.copy_paste)
        mosaic, cutmix, classmix, copy_paste = (None if part is None else part.model_dump() for part in given)
        return cls(mosaic, cutmix, classmix, copy_paste)

    @property
    def targets_as_params(self) -> list[str]:
        return ["sources", "position", "image", "mask"]

    def get_params_dependent_on_data(self, params: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:  # noqa: ARG002
        pair: Pair = (data["image"], data["mask"])
        sources: Sources = data["sources"]
        self.used = []
        for part in self._mixed.values():
            if isinstance(part, Mosaic | CutMix | ClassMix | CopyPaste) and self.py_random.random() < part.p:
                if isinstance(part, Mosaic):
                    pair = self._tile(pair, part, sources, data["position"])
                elif isinstance(part, CutMix):
                    pair = self._cut(pair, part, sources, data["position"])
                elif isinstance(part, ClassMix):
                    pair = self._classes(pair, part, sources, data["position"])
                else:
                    pair = self._paste(pair, part, sources)
        return {"mixed": pair}

    def apply(self, img: Pixels, mixed: Pair, **_: Any) -> Pixels:  # noqa: ARG002
        """(h,w,3) -> (h,w,3)."""
        return mixed[0]

    def apply_to_mask(self, mask: Pixels, mixed: Pair, **_: Any) -> Pixels:  # noqa: ARG002
        """(h,w) -> (h,w)."""
        return mixed[1]

    def _tile(self, pair: Pair, mosaic: Mosaic, sources: Sources, position: int) -> Pair:
        """Four images around a random point; the crop itself fills one quadrant, from its own corner there."""
        image, label = np.empty_like(pair[0]), np.empty_like(pair[1])
        height, width = label.shape
        low = mosaic.centre_min
        down, right = (round(side * self.py_random.uniform(low, 1 - low)) for side in (height, width))
        quadrants = [
            (rows, columns)
            for rows in (slice(0, down), slice(down, height))
            for columns in (slice(0, right), slice(right, width))
        ]
        own = self.py_random.randrange(4)
        taken = {position}
        for number, (rows, columns) in enumerate(quadrants):
            if number == own:
                image[rows, columns], label[rows, columns] = pair[0][rows, columns], pair[1][rows, columns]
                continue
            other = sources.draw(self.py_random, mosaic.rare_class_weight, taken)
            taken.add(other)
            self.used.append(other)
            size_px = (rows.stop - rows.start, columns.stop - columns.start)
            image[rows, columns], label[rows, columns] = sources.crop(other, size_px, self.py_random)
        return image, label

    def _cut(self, pair: Pair, cutmix: CutMix, sources: Sources, position: int) -> Pair:
        """A rectangle of 1 - lambda of the area, lambda from Beta(alpha, alpha), centred anywhere and clipped."""
        height, width = pair[1].shape
        side = (1 - self.py_random.betavariate(cutmix.alpha, cutmix.alpha)) ** 0.5
        spans = []
        for length in (height, width):
            centre, half = self.py_random.uniform(0, length), side * length / 2
            spans.append(slice(max(0, round(centre - half)), min(length, round(centre + half))))
        rows, columns = spans
        size_px = (rows.stop - rows.start, columns.stop - columns.start)
        if min(size_px) < 1:
            return pair
        image, label = pair[0].copy(), pair[1].copy()
        other = sources.draw(self.py_random, cutmix.rare_class_weight, {position})
        self.used.append(other)
        image[rows, columns], label[rows, columns] = sources.crop(other, size_px, self.py_random)
        return image, label

    def _classes(self, pair: Pair, classmix: ClassMix, sources: Sources, position: int) -> Pair:
        """Half of the classes of another crop, rounded up, laid over this one; never its background."""
        other = sources.draw(self.py_random, classmix.rare_class_weight, {position})
        size_px = (pair[1].shape[0], pair[1].shape[1])
        image, label = sources.crop(other, size_px, self.py_random)
        shown = np.flatnonzero(np.bincount(label.ravel(), minlength=256)).tolist()
        classes = [k for k in shown if k != IGNORE_INDEX and not (k == 0 and sources.background)]
        if not classes:
            return pair
        self.used.append(other)
        table = np.zeros(256, np.uint8)
        table[self.py_random.sample(classes, (len(classes) + 1) // 2)] = 255
        mask = cv2.LUT(label, table)
        mixed, mixed_label = pair[0].copy(), pair[1].copy()
        cv2.copyTo(image, mask, mixed)
        cv2.copyTo(label, mask, mixed_label)
        return mixed, mixed_label

    def _paste(self, pair: Pair, paste: CopyPaste, sources: Sources) -> Pair:
        """One to `objects_max` objects, scaled, perhaps flipped, whole inside the crop and never over one another."""
        image, label = pair[0].copy(), pair[1].copy()
        occupied = np.zeros(label.shape, np.uint8)
        for _ in range(self.py_random.randint(1, paste.objects_max)):
            thing = sources.thing(self.py_random, paste.rare_class_weight)
            if thing is None:
                continue
            scale = self.py_random.uniform(paste.scale_min, paste.scale_max) * sources.resize_factor(thing.position)
            flip = self.py_random.random() < 0.5
            source, mask = scaled(thing, scale, flip, (label.shape[0], label.shape[1]))
            if not mask.any():
                continue
            place = self._free_place(occupied, mask)
            if place is None:
                continue
            self.used.append(thing.position)
            lay_over(image[place], source, mask, paste.soft_edge_px)
            label[place][mask > 0] = sources.mirrored_class[thing.class_index] if flip else thing.class_index
            occupied[place] |= mask
        return image, label

    def _free_place(self, occupied: Pixels, mask: Pixels) -> tuple[slice, slice] | None:
        for _ in range(PLACE_TRIES):
            corner = [self.py_random.randint(0, occupied.shape[axis] - mask.shape[axis]) for axis in (0, 1)]
            place = (slice(corner[0], corner[0] + mask.shape[0]), slice(corner[1], corner[1] + mask.shape[1]))
            if not (occupied[place] & mask).any():
                return place
        return None


def scaled(thing: ObjectCutout, scale: float, flip: bool, room_px: tuple[int, int]) -> tuple[Pixels, Pixels]:
    """The object's image (h,w,3) and mask (h,w), resized to fit into `room_px` at most."""
    height, width = thing.mask.shape
    scale = min(scale, room_px[0] / height, room_px[1] / width)
    size = (min(room_px[1], max(1, round(width * scale))), min(room_px[0], max(1, round(height * scale))))
    image = cv2.resize(np.ascontiguousarray(thing.image), size, interpolation=cv2.INTER_LINEAR)
    mask = cv2.resize(thing.mask, size, interpolation=cv2.INTER_NEAREST_EXACT)
    if flip:
        image, mask = image[:, ::-1], mask[:, ::-1]
    return np.ascontiguousarray(image), np.ascontiguousarray(mask)


def lay_over(target: Pixels, source: Pixels, mask: Pixels, soft_edge_px: float) -> None:
    """The masked source painted over the target (h,w,3), in place; its rim fades, as Ghiasi et al. smooth theirs."""
    alpha = mask.astype(np.float32)
    if soft_edge_px > 0:
        alpha = np.asarray(cv2.GaussianBlur(alpha, (0, 0), soft_edge_px, borderType=cv2.BORDER_CONSTANT), np.float32)
    target[:] = cv2.blendLinear(source, np.ascontiguousarray(target), alpha, 1 - alpha)
