"""Reads logits or probabilities that other tools saved, image by image.

Accepted are .npz (as nnU-Net writes them), .npy or .safetensors files, or shards of this project; what comes out are
logits (K,h,w) float32 in the order of the wanted classes, under the data card's image ids.

An image is matched by its id, its path without suffix (`/` may be `_`), or its file name where no other image has it;
nnU-Net's channel number (`_0000`) may be left out. Class names come from `classes.json` (a list) or nnU-Net's
`dataset.json` in the folder; without either, the order of the data card is taken. Arrays are (K,h,w), (1,K,h,w),
(K,1,h,w), or (N,K,h,w) with N ids, one per line, in a .txt file of the same name (in a .npz: under `image_ids`). Values
that are not negative and sum to 1 over the classes are taken as probabilities.
"""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from trainables.logits.shard_format import FORMAT
from trainables.logits.store import LogitStore

Float = NDArray[np.float32]
PLAIN = "s1.00-none"
LEAST = 1e-7  # a probability below counts as this much: its logarithm still fits float16
NPZ_KEYS = ("probabilities", "softmax", "logits", "arr_0")


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


def class_order(folder: Path, have: Sequence[str] | None, wanted: Sequence[str]) -> list[int]:
    """Where each wanted class lies in the folder's arrays. Raises ValueError where the names are others."""
    if have is None or list(have) == list(wanted):
        return list(range(len(wanted)))
    if sorted(have) != sorted(wanted):
        lacking = ", ".join(sorted(set(wanted) - set(have))) or "none"
        extra = ", ".join(sorted(set(have) - set(wanted))) or "none"
        raise ValueError(
            f"logits that are used together must be of the same classes: {folder} lacks {lacking} and has besides "
            f"{extra}; rename them in its classes.json, or leave it out"
        )
    return [list(have).index(name) for name in wanted]


def read_folder(
    folder: Path,
    classes: Sequence[str],
    names: Mapping[str, str],
    *,
    allow_missing: bool = False,
    say: Callable[[str], None] = lambda _line: None,
) -> Iterator[ExternalPrediction]:
    """Every image of the folder that the data card names, in the order of its files.

    Raises ValueError for classes of other names, arrays of a wrong shape or with NaN, and broken files; with
    `allow_missing`, shards of this project that were cut short are named and give what is left of them.
    """
    files = sorted(p for p in folder.rglob("*") if p.suffix in (".npz", ".npy", ".safetensors"))
    if not files:
        raise ValueError(f"{folder} holds no .npz, .npy or .safetensors; give the folder of one model's predictions")
    if any(path.suffix == ".safetensors" and _is_shard(path) for path in files):
        yield from _from_stores(sorted({path.parent for path in files}), classes, names, allow_missing, say)
        return
    order = class_order(folder, _class_names(folder), classes)
    for path in files:
        for name, array in _arrays(path, folder):
            image_id = names.get(name) or names.get(PurePosixPath(name).name)
            if image_id is not None:
                yield ExternalPrediction(PLAIN, image_id, _as_logits(array, order, f"image '{image_id}' of {folder}"))


def _is_shard(path: Path) -> bool:
    with path.open("rb") as file:
        return FORMAT.encode() in file.read(4096)


def _from_stores(
    folders: Sequence[Path],
    classes: Sequence[str],
    names: Mapping[str, str],
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
                    yield ExternalPrediction(
                        view, names[image_id], _as_logits(array, order, f"image '{image_id}' of {folder}")
                    )


def _class_names(folder: Path) -> list[str] | None:
    for place in (folder, folder.parent):
        if (place / "classes.json").is_file():
            return [str(name) for name in _json(place / "classes.json")]
        if (place / "dataset.json").is_file():
            labels = _json(place / "dataset.json").get("labels", {})
            if labels and all(isinstance(value, int) for value in labels.values()):
                kept = {name: value for name, value in labels.items() if name != "ignore"}
                return [
                    name.capitalize() if name == "background" else name for name in sorted(kept, key=kept.__getitem__)
                ]
    return None


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} must be JSON, got a broken file ({error}); write it again") from error


def _arrays(path: Path, folder: Path) -> Iterator[tuple[str, NDArray[np.float64]]]:
    name = path.relative_to(folder).with_suffix("").as_posix()
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, framework="numpy") as file:
                keys = list(file.keys())
                for key in keys:
                    yield (key if len(keys) > 1 or key not in NPZ_KEYS else name), file.get_tensor(key)
            return
        ids: Sequence[str] | None = None
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as held:
                key = next((key for key in NPZ_KEYS if key in held), held.files[0])
                array = held[key]
                ids = [str(i) for i in held["image_ids"]] if "image_ids" in held else None
        else:
            array = np.load(path, mmap_mode="r", allow_pickle=False)
            listed = path.with_suffix(".txt")
            ids = listed.read_text(encoding="utf-8-sig").split("\n") if listed.is_file() else None
    except (OSError, EOFError, SafetensorError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} cannot be read ({error}); write it again, or take it out of its folder") from error
    if ids is None:
        yield name, array
        return
    ids = [name.strip() for name in ids if name.strip()]
    if array.ndim != 4 or len(ids) != len(array):
        raise ValueError(f"{path} must be (N,K,h,w) with an id for each of N images, got {array.shape} and {len(ids)}")
    yield from zip(ids, array, strict=True)


def _as_logits(array: NDArray[np.floating], order: Sequence[int], what: str) -> Float:
    num_classes = len(order)
    found: Float = np.asarray(array, np.float32)
    if found.ndim == 4 and 1 in found.shape[:2]:
        found = found[0] if found.shape[0] == 1 else found[:, 0]
    if found.ndim != 3 or found.shape[0] != num_classes or 0 in found.shape:
        raise ValueError(
            f"{what} must be ({num_classes},h,w), one channel a class of the data card, got {array.shape}; "
            "bring the class axis to the front"
        )
    if not np.isfinite(found).all():
        raise ValueError(f"{what} holds NaN or infinity; leave this model out or write it again")
    found = found[list(order)]
    if found.min() >= 0 and np.abs(found.sum(0) - 1).max() < 0.02:
        found = np.log(np.maximum(found, np.float32(LEAST)))
    found = found - found.max(0)  # softmax is the same, and float16 has most digits near 0
    return np.maximum(found, np.float32(-60000))
