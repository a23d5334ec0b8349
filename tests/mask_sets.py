"""Makes one data set twice: as COCO, and as label masks of the same pixels."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from trainables.data.coco_writer import CocoWriter

CLASSES = ("background", "paper", "glass")
SIDE_PX = (24, 32)


def write_images(folder: Path, names: list[str], size: tuple[int, int] = SIDE_PX) -> None:
    """Noise, different in each."""
    for n, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(n).integers(0, 256, (*size, 3), dtype=np.uint8)
        Image.fromarray(noise).save(path)


def made_label(n: int, size: tuple[int, int] = SIDE_PX) -> NDArray[np.uint8]:
    """Two rectangles of changing class (1, 2) on background, in places that change with n."""
    label = np.zeros(size, np.uint8)
    label[2 + n % 7 : 10 + n % 7, 3:12] = 1 + n % 2
    if n % 3 == 0:
        label[12:20, 15 + n % 5 : 28] = 2 - n % 2
    return label


def write_mask(path: Path, label: NDArray[np.uint8]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(label).save(path)


def write_both(root: Path, num_images: int = 6) -> tuple[Path, Path]:
    """Cards of a set of masks and of the same set as COCO, under one root."""
    labels = {f"images/{n:02d}.jpg": made_label(n) for n in range(num_images)}
    write_images(root, list(labels))
    for name, label in labels.items():
        write_mask(root / "masks" / Path(name).with_suffix(".png").name, label)
    write_coco(root / "train.json", labels)
    return (
        card(root, "masks.yaml", "train: {images: images, masks: masks}\nclasses: [background, paper, glass]\n"),
        card(root, "coco.yaml", "train: train.json\n"),
    )


def write_coco(path: Path, labels: Mapping[str, NDArray[np.uint8]]) -> None:
    """One annotation per class and image."""
    writer = CocoWriter()
    for name, label in labels.items():
        number = writer.add_image(name, *label.shape)
        for k in sorted(set(np.unique(label).tolist()) - {0}):
            writer.add_mask(number, k, label == k)
    path.write_text(json.dumps(writer.content(dict(enumerate(CLASSES[1:], start=1)))), encoding="utf-8")


def card(root: Path, name: str, text: str) -> Path:
    (root / name).write_text(f"name: made\n{text}", encoding="utf-8")
    return root / name
