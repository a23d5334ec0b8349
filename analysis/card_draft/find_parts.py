"""Finds the parts of a data set in a folder: COCO files with their images, folders of images with their masks.

What a part is for is read off the words in its path: train, val, valid, validation, dev; test, holdout.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image, UnidentifiedImageError

from trainables.data.folder_parts import MASK_SUFFIXES
from trainables.data.image_file import SUFFIXES
from trainables.data.image_folder import files_under
from trainables.plain_json import parse_json

Role = Literal["train", "val", "holdout", "unlabelled"]
WORDS: dict[str, Role] = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing", "holdout"), "holdout"),
    **dict.fromkeys(("unlabelled", "unlabeled"), "unlabelled"),
}
MAX_FILES = 500_000  # that are looked at
MAX_MASK_VALUES = 64  # an image with more is no mask of classes
NUM_OPENED = 12  # images of a folder that are opened, evenly
NUM_NAMES = 20  # images of a COCO file that are looked for


@dataclass(frozen=True)
class FoundPart:
    """One part: `value` as the card has it, and what was seen of it."""

    role: Role
    value: Any
    seen: str
    images: frozenset[Path] = frozenset()  # those that it lists and that are there


@dataclass(frozen=True)
class FoundMasks(FoundPart):
    """Images and masks; `values` are those of some of the masks, numbers or '#rrggbb'."""

    values: frozenset[int | str] = frozenset()


def role_of(path: Path, default: Role = "train") -> Role:
    """By the last word in the path that says what it is for: 'instances_train2017.json' is for training."""
    words = re.findall(r"[a-z]+", str(path).lower())
    return next((WORDS[word] for word in reversed(words) if word in WORDS), default)


def files_of(root: Path) -> list[Path]:
    return sorted(islice(files_under(root), MAX_FILES))


def image_folders(root: Path, files: Sequence[Path]) -> dict[Path, list[Path]]:
    """Folders that hold images, hidden ones left out, with the images in each."""
    found: dict[Path, list[Path]] = {}
    for file in files:
        hidden = any(part.startswith(".") for part in file.relative_to(root).parts)
        if file.suffix.lower() in SUFFIXES and not hidden:
            found.setdefault(file.parent, []).append(file)
    return found


def find_coco(root: Path, files: Sequence[Path], folders: Sequence[Path]) -> list[FoundPart]:
    """COCO files and where their images are. One without an annotation is a part without labels."""
    found = []
    for file in files:
        document = _coco(file) if file.suffix.lower() == ".json" else None
        if document is None:
            continue
        names = [str(image.get("file_name")) for image in document["images"] if isinstance(image, dict)]
        images = _folder_of(names, [root, file.parent, *folders, *_parents(folders, root)])
        path = file.relative_to(root).as_posix()
        value: Any = path
        if images is not None and images != root:
            value = {"coco": path, "images": images.relative_to(root).as_posix()}
        labelled = bool(document.get("annotations"))
        seen = f"{len(names)} images, " + (f"{len(document['annotations'])} annotations" if labelled else "no labels")
        if images is None:
            seen += "; its images were not found in this folder"
        there = frozenset(images / name for name in names) if images else frozenset()
        found.append(FoundPart(role_of(Path(path)) if labelled else "unlabelled", value, seen, there))
    return found


def _coco(file: Path) -> dict[str, Any] | None:
    try:
        document = parse_json(file.read_bytes())
    except (OSError, ValueError):
        return None  # no JSON is no COCO; what a card names is reported when it is read
    known = isinstance(document, dict) and isinstance(document.get("images"), list)
    return document if known and isinstance(document.get("annotations", []), list) else None


def _parents(folders: Sequence[Path], root: Path) -> list[Path]:
    return sorted({parent for folder in folders for parent in folder.parents if parent.is_relative_to(root)})


def _folder_of(names: Sequence[str], candidates: Sequence[Path]) -> Path | None:
    """The first folder in which the images are that the names are relative to."""
    few = [names[i] for i in _evenly(len(names), NUM_NAMES)]
    return next((folder for folder in candidates if few and all((folder / name).is_file() for name in few)), None)


def find_masks(root: Path, folders: dict[Path, list[Path]]) -> list[FoundMasks]:
    """Pairs of a folder of images and one of masks with the same names but for the suffix."""
    masks = {folder: values for folder, files in folders.items() if (values := _mask_values(files))}
    found = []
    for folder, values in masks.items():
        stems = {file.stem for file in folders[folder]}
        partners = [
            other
            for other, files in folders.items()
            if other not in masks and 0 < sum(file.stem in stems for file in files) >= 0.9 * len(files)
        ]
        if not partners:
            continue
        images = max(partners, key=lambda other: _likeness(other.relative_to(root), folder.relative_to(root)))
        value = {"images": images.relative_to(root).as_posix(), "masks": folder.relative_to(root).as_posix()}
        role = role_of(folder.relative_to(root))
        seen = f"{len(folders[images])} images with masks"
        found.append(FoundMasks(role, value, seen, frozenset(folders[images]), values))
    return found


def _likeness(a: Path, b: Path) -> int:
    """How many names two paths share: of 'train/images' and 'val/images', the former goes with 'train/masks'."""
    return len(set(a.parts) & set(b.parts))


def _mask_values(files: Sequence[Path]) -> frozenset[int | str]:
    """The values of some of the masks; none where the files are no masks, or one of them cannot be read."""
    values: set[int | str] = set()
    if any(file.suffix.lower() not in MASK_SUFFIXES for file in files):
        return frozenset()
    for i in _evenly(len(files), NUM_OPENED):
        try:
            values |= set(_values(files[i]))
        except (OSError, UnidentifiedImageError, ValueError, Image.DecompressionBombError):
            return frozenset()
        if len(values) > MAX_MASK_VALUES:
            return frozenset()  # a photograph
    return frozenset(values)


def _values(file: Path) -> Iterator[int | str]:
    """At most MAX_MASK_VALUES + 1 of one file's."""
    with Image.open(file) as image:
        pixels = np.asarray(image)
    if pixels.ndim == 2:
        yield from np.unique(pixels)[: MAX_MASK_VALUES + 1].astype(int).tolist()
        return
    colours = np.unique(pixels[..., :3].reshape(-1, 3)[:1_000_000], axis=0)[: MAX_MASK_VALUES + 1]
    yield from ("#" + "".join(f"{channel:02x}" for channel in colour) for colour in colours.tolist())


def _evenly(count: int, most: int) -> list[int]:
    return [count * i // min(count, most) for i in range(min(count, most))]
