"""Mixed training images written once: the mixing of the loader, as a COCO data set of its own."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import albumentations as A
import cv2
import numpy as np
import yaml
from numpy.typing import NDArray

from trainables.data.augment.crop import ScaledCrop
from trainables.data.augment.mix_sources import Sources
from trainables.data.augment.mixing import Mix
from trainables.data.augment.pipeline import reseed
from trainables.data.cache import Cache
from trainables.data.coco_writer import CocoWriter
from trainables.data.index import SegIndex
from trainables.recipe.augmentation import Augmentation

JPEG_QUALITY = 95
IGNORED = "ignored"  # a category for the pixels that count for nothing


@dataclass(frozen=True)
class MixSettings:
    """How images are mixed; `mix.json` records it."""

    seed: int
    size_px: int  # side of a mixed image
    rare: float  # rare_class_weight: 0 takes classes as they come, 1 makes up for rare ones
    scale_min: float
    scale_max: float


@dataclass(frozen=True)
class MixedImage:
    """An image (h,w,3) and its label (h,w), mixed from `sources` (image_ids, the pasted-on one first)."""

    stem: str
    kind: str
    image: NDArray[np.uint8]
    label: NDArray[np.uint8]
    sources: tuple[str, ...]


def mixed_images(
    cache: Cache, train_ids: Sequence[str], kinds: Sequence[str], settings: MixSettings, num_images: int
) -> Iterator[MixedImage]:
    """Yield `num_images` images, the kinds in turn; a function of the settings and the data alone."""
    pipelines = {}
    for kind in kinds:
        mixing = {kind: {"p": 1.0, "rare_class_weight": settings.rare}}
        scales = {"scale_min": settings.scale_min, "scale_max": settings.scale_max}
        plain = {"crop_px": settings.size_px, "hflip_p": 0, "colour_p": 0}
        aug = Augmentation.model_validate({**plain, **scales, **mixing})
        pipelines[kind] = (_pipeline(aug), Sources(cache, train_ids, aug))
    for number in range(num_images):
        kind = kinds[number % len(kinds)]
        pipeline, sources = pipelines[kind]
        reseed(pipeline, settings.seed, number)
        position = sources.draw(pipeline.py_random, settings.rare)
        image_id = sources.ids[position]
        given = {"image": cache.image(image_id), "mask": cache.label(image_id)}
        mixed = pipeline(**given, sources=sources, position=position)
        used = (image_id, *(sources.ids[each] for each in pipeline.transforms[-1].used))
        yield MixedImage(f"{kind}-{number:06d}", kind, mixed["image"], mixed["mask"], used)


def _pipeline(aug: Augmentation) -> Any:
    """A crop at a random scale, then the mixing: colours and geometry are the loader's, fresh each epoch."""
    return A.Compose([ScaledCrop(aug.crop_px, None, aug.scale_min, aug.scale_max), Mix.of(aug)])


class OfflineSet:
    """The files of an off-line set, filled image by image: images, train.json, data.yaml and mix.json.

    An image has one annotation per class, so that painting them gives its label pixel for pixel.
    """

    def __init__(self, folder: Path, index: SegIndex, name: str) -> None:
        self.folder, self.index, self.name = folder, index, name
        first = 1 if index.background else 0
        self.categories = {k: k + 1 - first for k in range(first, index.num_classes)} | {
            index.ignore_index: index.num_classes + 1 - first
        }
        self.coco = CocoWriter()
        self.lineage: list[dict[str, Any]] = []
        self.counts = dict.fromkeys(index.classes, 0)
        (folder / "images").mkdir()

    def add(self, mixed: MixedImage) -> None:
        """Write the image and note its annotations."""
        file_name = f"images/{mixed.stem}.jpg"
        bgr = cv2.cvtColor(mixed.image, cv2.COLOR_RGB2BGR)
        done, encoded = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
        assert done, "OpenCV writes JPEG"
        (self.folder / file_name).write_bytes(encoded.tobytes())
        number = self.coco.add_image(file_name, *mixed.label.shape)
        self.lineage.append({"file_name": file_name, "kind": mixed.kind, "sources": list(mixed.sources)})
        for k in np.unique(mixed.label).tolist():
            if k < self.index.num_classes:
                self.counts[self.index.classes[k]] += 1
            if k in self.categories:
                self.coco.add_mask(number, self.categories[k], mixed.label == k)

    def close(self, settings: MixSettings) -> dict[str, int]:
        """Write what describes the images; returns the number of images that show each class."""
        ignored = self.categories[self.index.ignore_index]
        ignores = any(each["category_id"] == ignored for each in self.coco.annotations)
        names = {number: self.index.classes[k] for k, number in self.categories.items() if k < self.index.num_classes}
        content = {
            "info": {"description": f"mixed training images of {self.name}"},
            "licenses": [{"id": n, "name": name, "url": ""} for n, name in enumerate(self.index.licences)],
            **self.coco.content(names | ({ignored: IGNORED} if ignores else {})),
        }
        (self.folder / "train.json").write_text(json.dumps(content), encoding="utf-8")
        card: dict[str, Any] = {
            "name": f"{self.name}-mixed",
            "train": "train.json",
            "background": self.index.background,
        }
        card |= {"ignore": [IGNORED]} if ignores else {}
        if self.index.flip_pairs:
            card["flip_pairs"] = [[self.index.classes[k] for k in pair] for pair in self.index.flip_pairs]
        (self.folder / "data.yaml").write_text(yaml.safe_dump(card, sort_keys=False), encoding="utf-8")
        about = asdict(settings) | {"data_fingerprint": self.index.fingerprint, "images": self.lineage}
        (self.folder / "mix.json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
        return self.counts
