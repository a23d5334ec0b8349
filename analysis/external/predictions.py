"""Reads logits or probabilities that other tools saved, image by image.

Accepted are .npz (as nnU-Net writes them), .npy or .safetensors files, or shards of this project; what comes out are
logits (K,h,w) float32 in the order of the wanted classes, under the data card's image ids.

An image is matched by its id, its path without suffix (`/` may be `_`), or its file name where no other image has it;
nnU-Net's channel number (`_0000`) may be left out. Class names come from the file itself (`classes` in a .npz, or in a
safetensors file's metadata), from `classes.json` (a list) or nnU-Net's `dataset.json` in the folder; without any, the
order of the data card is taken. Arrays are (K,h,w), (1,K,h,w), (K,1,h,w), or (N,K,h,w) with N ids, one per line, in
a .txt file of the same name (in a .npz: under `image_ids`). They cover the whole image, at its own size or at a stride:
one on its side, padded or squeezed into a square is refused. Values that are not negative and sum to 1 over the classes
are taken as probabilities. Hidden files (macOS leaves `._a.npz` beside a.npz) are passed over and named.
"""

from __future__ import annotations

import math
import re
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from analysis.external.classes import checked_names, class_names, class_order
from trainables.logits.shard_format import FORMAT
from trainables.logits.store import LogitStore
from trainables.plain_json import parse_json

Float = NDArray[np.float32]
PLAIN = "s1.00-none"
LEAST = 1e-7  # a probability below counts as this much: its logarithm still fits float16
NPZ_KEYS = ("probabilities", "softmax", "logits", "arr_0")


BROKEN = (
    OSError,
    EOFError,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    SafetensorError,
    zipfile.BadZipFile,
    zlib.error,
    tokenize.TokenError,  # numpy reads the header of an array as Python's text
    SyntaxError,
    RecursionError,
    MemoryError,
)
SizeOf = Callable[[str], tuple[int, int]]  # image_id -> (H,W) of its label


@dataclass(frozen=True)
class ExternalPrediction:
    """One image's logits in one view."""

    view: str
    image_id: str
    logits: Float  # (K,h,w)


def names_of(image_ids: Sequence[str]) -> dict[str, str]:
    """Every name under which an image may be found -> its id; a name that two images share is left out."""
    found: dict[str, str] = {}
    shared: set[str] = set()
    for image_id in image_ids:
        path = PurePosixPath(image_id)
        whole = path.with_suffix("").as_posix()
        plain = (image_id, whole, whole.replace("/", "_"), path.name, path.stem, re.sub(r"_\d{4}$", "", path.stem))
        for name in dict.fromkeys(plain):
            shared |= {name} if found.setdefault(name, image_id) != image_id else set()
    return {name: image_id for name, image_id in found.items() if name not in shared or name == image_id}


def read_folder(
    folder: Path,
    classes: Sequence[str],
    names: Mapping[str, str],
    size_of: SizeOf,
    *,
    allow_missing: bool = False,
    say: Callable[[str], None] = lambda _line: None,
) -> Iterator[ExternalPrediction]:
    """Every image of the folder that the data card names, in the order of its files.

    Raises ValueError, naming the file, for classes of other names, arrays of a wrong shape or with NaN, and broken
    files; with `allow_missing`, shards of this project that were cut short are named and give what is left of them.
    """
    found = sorted(p for p in folder.rglob("*") if p.suffix in (".npz", ".npy", ".safetensors"))
    files = [path for path in found if not path.name.startswith(".")]
    hidden = [path.name for path in found if path.name.startswith(".")]
    if hidden:
        say(f"warning: {folder}: hidden files are passed over ({', '.join(hidden[:5])}): {len(hidden)}")
    if not files:
        raise ValueError(f"{folder} holds no .npz, .npy or .safetensors; give the folder of one model's predictions")
    if any(path.suffix == ".safetensors" and _is_shard(path) for path in files):
        yield from _from_stores(sorted({path.parent for path in files}), classes, names, size_of, allow_missing, say)
        return
    of_folder = class_names(folder)
    most = 2**20 + 8 * len(classes) * sum(math.prod(size_of(image_id)) for image_id in set(names.values()))
    for path in files:
        for name, array, own_names in _arrays(path, folder, most):
            image_id = names.get(name) or names.get(PurePosixPath(name).name)
            if image_id is not None:
                order = class_order(path if own_names else folder, own_names or of_folder, classes)
                logits = _as_logits(array, order, f"{path}: image '{image_id}'", size_of(image_id))
                yield ExternalPrediction(PLAIN, image_id, logits)


def _is_shard(path: Path) -> bool:
    with path.open("rb") as file:
        return FORMAT.encode() in file.read(4096)


def _from_stores(
    folders: Sequence[Path],
    classes: Sequence[str],
    names: Mapping[str, str],
    size_of: SizeOf,
    allow_missing: bool,
    say: Callable[[str], None],
) -> Iterator[ExternalPrediction]:
    for folder in folders:
        store = LogitStore(folder, allow_missing=allow_missing)
        for path, lost in store.lost.items():
            listed = ", ".join(lost[:20]) + (", ..." if len(lost) > 20 else "")
            say(
                f"warning: {path} is cut short: without {len(lost)} of its images ({listed})"
                if lost
                else f"warning: {path} is cut short: nothing of it can be read"
            )
        order = class_order(folder, store.header.classes, classes)
        for view in store.views:
            for image_id in store.ids_of(view):
                if image_id in names:
                    array = store.logits(view, image_id).astype(np.float32)
                    what, size_px = f"{folder}: image '{image_id}'", size_of(names[image_id])
                    if store.size_px(view, image_id) != size_px:
                        raise ValueError(
                            f"{what} was predicted at {_text(store.size_px(view, image_id))} px, its label has "
                            f"{_text(size_px)} (height x width); predict the image that the data card names"
                        )
                    yield ExternalPrediction(view, names[image_id], _as_logits(array, order, what, None))


def _arrays(path: Path, folder: Path, most: int) -> Iterator[tuple[str, NDArray[np.generic], list[str] | None]]:
    """Name, array and, where the file has them, the class names; a .npz may unpack to at most `most` bytes."""
    name = path.relative_to(folder).with_suffix("").as_posix()
    names: list[str] | None = None
    ids: Sequence[str] | None = None
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, framework="numpy") as file:
                keys = list(file.keys())
                stated = (file.metadata() or {}).get("classes")
                names = checked_names(parse_json(stated), path) if stated is not None else None
                for key in keys:
                    yield (key if len(keys) > 1 or key not in NPZ_KEYS else name), file.get_tensor(key), names
            return
        if path.suffix == ".npz":
            _check_unpacked(path, most)
            with np.load(path, allow_pickle=False) as held:
                key = next((key for key in NPZ_KEYS if key in held), held.files[0])
                array = held[key]
                ids = [str(i) for i in held["image_ids"]] if "image_ids" in held else None
                names = checked_names(held["classes"].tolist(), path) if "classes" in held else None
        else:
            array = np.load(path, mmap_mode="r", allow_pickle=False)
            listed = path.with_suffix(".txt")
            ids = listed.read_text(encoding="utf-8-sig").split("\n") if listed.is_file() else None
    except BROKEN as error:
        pickled = "allow_pickle" in str(error)
        reason = "it holds Python objects or is no array; save one float array" if pickled else error
        raise ValueError(f"{path} cannot be read ({reason}); write it again, or take it out of its folder") from error
    if ids is None:
        yield name, array, names
        return
    ids = [name.strip() for name in ids if name.strip()]
    if array.ndim != 4 or len(ids) != len(array):
        raise ValueError(f"{path} must be (N,K,h,w) with an id for each of N images, got {array.shape} and {len(ids)}")
    yield from ((one, each, names) for one, each in zip(ids, array, strict=True))


def _check_unpacked(path: Path, most: int) -> None:
    """Raises ValueError for a file that would unpack to more than all labels have in float64."""
    with zipfile.ZipFile(path) as packed:
        num_bytes = sum(item.file_size for item in packed.infolist())
    if num_bytes > most:
        raise ValueError(f"it unpacks to {num_bytes} bytes, where all images of the data card come to at most {most}")


def _as_logits(array: NDArray[np.generic], order: Sequence[int], what: str, label_px: tuple[int, int] | None) -> Float:
    """The array as logits (K,h,w) float32; its shape is compared with the label's (H,W) where that is given."""
    num_classes = len(order)
    if array.dtype.kind not in "fiub":
        raise ValueError(f"{what} must hold numbers, got {array.dtype}; save logits or probabilities as floats")
    found: Float = np.asarray(array, np.float32)
    if found.ndim == 4 and 1 in found.shape[:2]:
        found = found[0] if found.shape[0] == 1 else found[:, 0]
    if found.ndim != 3 or found.shape[0] != num_classes or 0 in found.shape:
        raise ValueError(
            f"{what} must be ({num_classes},h,w), one channel a class of the data card, got {array.shape}; "
            "bring the class axis to the front"
        )
    if label_px is not None and not _covers(found.shape[1:], label_px):
        turned = _covers(found.shape[:0:-1], label_px)
        remedy = "exchange its last two axes" if turned else "cut off the padding, or resize it to the label's size"
        kind = "an image on its side" if turned else "another image, a padded or a squeezed one"
        raise ValueError(
            f"{what} is ({num_classes},h,w) with h x w = {_text(found.shape[1:])}, the shape of {kind}: the label is "
            f"{_text(label_px)} (height x width); {remedy}"
        )
    if not np.isfinite(found).all():
        raise ValueError(f"{what} holds NaN or infinity; leave this model out or write it again")
    found = found[list(order)]
    if found.min() >= 0 and np.abs(found.sum(0) - 1).max() < 0.02:
        found = np.log(np.maximum(found, np.float32(LEAST)))
    return for_float16(found)


def for_float16(logits: Float) -> Float:
    """Logits (K,h,w) of the same softmax that float16 holds with most digits: the highest is 0."""
    below: Float = np.maximum(logits - logits.max(0), np.float32(-60000))
    return below


def _covers(shape: Sequence[int], label_px: tuple[int, int]) -> bool:
    """Whether an array (h,w) has the shape of a label (H,W) at one stride, each side rounded to a cell up or down."""
    low, high = 0.0, np.inf  # of the stride
    for cells, side_px in zip(shape, label_px, strict=True):
        low = max(low, side_px / (cells + 1))
        high = min(high, side_px / (cells - 1) if cells > 1 else np.inf)
    return low < high


def _text(size_px: Sequence[int]) -> str:
    return " x ".join(str(side) for side in size_px)
