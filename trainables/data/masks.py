"""Reads label masks: files with one pixel value, palette index or colour per class.

A part of the card is a folder of images and one of masks; a mask has its image's path but for the suffix. Masks are
decoded while the data set is read, since a value that is no class must be found before anything is trained.
"""

from __future__ import annotations

import hashlib
import io
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, TiffImagePlugin, UnidentifiedImageError

from trainables.data.card import Findings
from trainables.data.class_table import ClassTable, shown
from trainables.data.image_file import BITS, BROKEN, FORMATS, ORIENTATION
from trainables.data.index import IGNORE_INDEX, MaskFile, MaskValues

MASK_FORMATS = ("PNG", "BMP", "TIFF")  # what keeps every value as it is
ONE_CHANNEL = ("L", "P", "1", "I", "I;16", "I;16B", "I;16L")
SCALED_GREY = ("L;2", "L;4")  # PNGs whose values Pillow spreads over 0 to 255
DEFAULT_IGNORED = 255
NO_CLASS = -1
MAX_NAMED = 5
NUM_THREADS = 4

Raw = NDArray[np.uint8] | NDArray[np.uint16] | NDArray[np.uint32]


@dataclass(frozen=True)
class MaskScan:
    """A mask in numbers. `strangers`: pixels of every value that is neither a class nor ignored."""

    height: int
    width: int
    file: MaskFile
    strangers: dict[int, int]


def mask_values(table: ClassTable, ignore_index: int | None, *, reduce_zero: bool, index: dict[str, int]) -> MaskValues:
    """The class index of each value; `index` has that of each name, IGNORE_INDEX for those that the card ignores."""
    class_of = {value: index[name] for value, name in table.entries}
    if reduce_zero:
        class_of[0] = IGNORE_INDEX
    if not table.colours:
        # 255 is ignored unless it is a class: where the card says nothing, as nearly every tool has it
        class_of.setdefault(DEFAULT_IGNORED if ignore_index is None else ignore_index, IGNORE_INDEX)
    return MaskValues(tuple(class_of.items()), table.colours)


def read_mask(path: Path, values: MaskValues) -> NDArray[np.uint8]:
    """The labels of a mask: uint8 (H,W) of class indices, IGNORE_INDEX where nothing counts.

    Raises ValueError for a file that is no mask, and for values that are no class.
    """
    label = _to_classes(raw_values(path, values), values)
    if (label == NO_CLASS).any():
        raise ValueError(f"{path}: the mask has values that are no class; it has changed: read the data set again")
    return label.astype(np.uint8)


def raw_values(path: Path, values: MaskValues) -> Raw:
    """The values (H,W) of a mask as stored: of one channel, palette indices, or colours as 0xRRGGBB."""
    return _decode(path, path.read_bytes(), values)


def scan_masks(
    name: str, masks: Sequence[Path], values: MaskValues, num_classes: int, findings: Findings
) -> list[MaskScan | None]:
    """Decode every mask with a few threads; None for those that are none, which are errors. Values that are no class
    are one error each, with the masks that have them; `name` is the folder in messages."""

    def scan(path: Path) -> MaskScan | str:
        try:
            return _scan(path, values, num_classes)
        except (OSError, ValueError) as error:
            return str(error)

    with ThreadPoolExecutor(max_workers=NUM_THREADS) as pool:
        found = list(pool.map(scan, masks))
    strangers: dict[int, list[str]] = {}
    pixels: Counter[int] = Counter()
    for path, one in zip(masks, found, strict=True):
        if isinstance(one, str):
            findings.error(f"{name}: {one}")
            continue
        for value, count in one.strangers.items():
            strangers.setdefault(value, []).append(path.name)
            pixels[value] += count
    for value, files in sorted(strangers.items()):
        findings.error(
            f"{name}: value {shown(value, colours=values.colours)} is no class, in {pixels[value]} pixels of "
            f"{len(files)} masks ({first_few(files)}); add it to classes, give it a name that ignore lists, or "
            "correct the masks"
        )
    return [None if isinstance(one, str) else one for one in found]


def first_few(names: Iterable[str]) -> str:
    """The first of some names, and a sign that there are more."""
    listed = list(names)
    return ", ".join(listed[:MAX_NAMED]) + (", ..." if len(listed) > MAX_NAMED else "")


def _scan(path: Path, values: MaskValues, num_classes: int) -> MaskScan:
    content = path.read_bytes()
    raw = _decode(path, content, values)
    label = _to_classes(raw, values)
    counts = np.bincount(label.ravel() + 1, minlength=num_classes + 1)  # the first: no class
    strangers: dict[int, int] = {}
    if counts[0]:
        found, pixels = np.unique(raw[label == NO_CLASS], return_counts=True)
        strangers = dict(zip(found.tolist(), pixels.tolist(), strict=True))
    digest = hashlib.blake2b(content, digest_size=16).hexdigest()
    file = MaskFile(path, digest, tuple(counts[1 : num_classes + 1].tolist()))
    height, width = label.shape
    return MaskScan(height, width, file, strangers)


def _to_classes(raw: Raw, values: MaskValues) -> NDArray[np.int16]:
    """Class indices (H,W), NO_CLASS where a value has none."""
    return _lookup(values)[raw]


@lru_cache(maxsize=4)
def _lookup(values: MaskValues) -> NDArray[np.int16]:
    """Class index by value: of all 2^24 colours (32 MiB), or of 16 bits."""
    table = np.full(2**24 if values.colours else 2**16, NO_CLASS, np.int16)
    for value, k in values.class_of:
        table[value] = k
    return table


def _decode(path: Path, content: bytes, values: MaskValues) -> Raw:
    try:
        with Image.open(io.BytesIO(content), formats=list(FORMATS)) as image:
            _refuse_changed_values(path, image, content)
            if values.colours:
                return _colours(path, image)
            return _one_channel(path, image, values)
    except UnidentifiedImageError as error:  # its text names the buffer
        raise ValueError(f"{path.name}: the mask cannot be read as an image; write it again as PNG") from error
    except Image.DecompressionBombError as error:
        raise ValueError(f"{path.name}: the mask is too large ({error}); cut it and its image into tiles") from error
    except BROKEN as error:
        raise ValueError(f"{path.name}: the mask cannot be read ({error}); write it again as PNG") from error


def _refuse_changed_values(path: Path, image: Image.Image, content: bytes) -> None:
    """Formats and forms in which a pixel's value is not what was written, or not where."""
    if image.format not in MASK_FORMATS:
        raise ValueError(
            f"{path.name}: a mask must keep every value, as PNG does, got {image.format}; write it again as PNG from "
            "the labels, not from this file"
        )
    if image.format == "PNG" and any(tile[3] in SCALED_GREY for tile in getattr(image, "tile", [])):
        raise ValueError(f"{path.name}: a grey mask must have 1, 8 or 16 bits, got fewer than 8; save it with 8 bits")
    if len(image.getbands()) > 1 and _bits(image, content) > 8:  # Pillow keeps the high byte alone
        raise ValueError(
            f"{path.name}: a mask in colours must have 8 bits a channel, got 16; save it with 8, or as one channel"
        )
    if image.format == "TIFF" and image.getexif().get(ORIENTATION, 1) != 1:
        raise ValueError(f"{path.name}: a mask must be stored upright, got a TIFF orientation; save it as PNG")


def _bits(image: Image.Image, content: bytes) -> int:
    """Of the first channel, as stored."""
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        return int(image.tag_v2.get(BITS, (1,))[0])
    return content[24] if image.format == "PNG" else 8


def _colours(path: Path, image: Image.Image) -> Raw:
    if image.mode not in ("RGB", "RGBA", "P"):
        raise ValueError(
            f"{path.name}: classes are colours, and the mask has mode {image.mode!r}; give classes by value, "
            "e.g. {0: background, 1: cell}"
        )
    rgba = np.asarray(image.convert("RGBA"), np.uint32)  # (H,W,4)
    if (rgba[..., 3] != 255).any():
        raise ValueError(f"{path.name}: a mask must be opaque, got transparent pixels; save it without alpha")
    return np.asarray((rgba[..., 0] << 16) | (rgba[..., 1] << 8) | rgba[..., 2], np.uint32)


def _one_channel(path: Path, image: Image.Image, values: MaskValues) -> Raw:
    if image.mode in ("RGB", "RGBA"):
        pixels = np.asarray(image, np.uint8)
        if (pixels[..., :1] == pixels[..., 1:3]).all() and (pixels[..., 3:] == 255).all():
            return np.ascontiguousarray(pixels[..., 0])  # one channel, saved three times
        raise ValueError(
            f"{path.name}: the mask is in colours, and classes are given by value; give them by colour, "
            "e.g. {'#804080': road}"
        )
    if image.mode not in ONE_CHANNEL:
        raise ValueError(
            f"{path.name}: a mask must have one channel, a palette or RGB, got mode {image.mode!r}; save it as PNG"
        )
    raw = np.asarray(image)
    if image.mode == "1":  # white is 1, or 255 for those who write 0 and 255
        known = {value for value, _ in values.class_of}
        return raw.astype(np.uint8) * np.uint8(255 if 1 not in known else 1)
    if raw.size and not 0 <= int(raw.min()) <= int(raw.max()) < 2**16:
        raise ValueError(f"{path.name}: a mask's values must be 0 to {2**16 - 1}, got {raw.min()} to {raw.max()}")
    return raw.astype(np.uint16)
