"""The logit store: raw logits of one trial on one split, as safetensors shards that describe themselves.

Logits are (K,h,w) per image and view, at the head's own stride. Shards are `<view>-<shard:05d>.safetensors` with one
tensor per image, float16 or in 8 bits (see `shard_format`), read back memory-mapped, one image at a time. Any
safetensors reader can use them without this module.
"""

from __future__ import annotations

import json
import math
import mmap
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from trainables.files import write_atomically
from trainables.logits.lineage import read_lineage
from trainables.logits.quantise import Float, Levels, decode, encode
from trainables.logits.shard_format import (
    FORMAT,
    TENSOR_DTYPES,
    Dtype,
    Entry,
    LogitHeader,
    TruncatedShard,
    head_bytes,
    read_shard,
)

__all__ = [
    "FORMAT",
    "Dtype",
    "LogitHeader",
    "LogitStore",
    "LogitWriter",
    "TruncatedShard",
    "check_together",
    "forecast_bytes",
]

SHARD_BYTES = 256 * 10**6  # of a file, header and all
RESIDENT_BYTES = 64 * 2**20  # of a store's mapped files that count as this process's memory at most
Half = NDArray[np.float16]


@dataclass(frozen=True)
class _Held:
    """One image that waits for its shard."""

    array: Half | Levels  # (K,h,w)
    size_px: tuple[int, int]
    scale: float | None


class LogitWriter:
    """Writes one view of one trial and split, as its header's `dtype`. Shards of that view that lie in `folder` are
    replaced.

    An array given to `add` is kept, not copied, until its shard is written: do not reuse its memory.
    """

    def __init__(self, folder: Path, header: LogitHeader, shard_bytes: int = SHARD_BYTES) -> None:
        self.folder, self.header, self.shard_bytes = folder, header, shard_bytes
        self._held: dict[str, _Held] = {}
        self._held_bytes = 0
        self._head_bytes = 2 * len(head_bytes(header, {}, {}, {}))  # at most: quotes are escaped twice
        self._seen: set[str] = set()
        self._num_shards = 0
        folder.mkdir(parents=True, exist_ok=True)
        for stale in [*folder.glob(f"{header.view}-*.safetensors"), *folder.glob(f".{header.view}-*.tmp")]:
            stale.unlink()

    def __enter__(self) -> LogitWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, _e: BaseException | None, _t: TracebackType | None) -> None:
        if kind is None:
            self.close()

    def add(self, image_id: str, logits: Half, size: tuple[int, int]) -> None:
        """Add logits (K,h,w) float16 of one image whose label has `size` (H,W). Raises ValueError on a wrong
        shape or type, a second array of one image, and logits that are not finite."""
        self._check(image_id, logits)
        array, scale = encode(logits) if self.header.dtype == "uint8" else (np.ascontiguousarray(logits), None)
        num_bytes = (
            array.nbytes + 256 + 5 * len(json.dumps(image_id))
        )  # of the header at most: its name thrice, escaped
        if self._held and self._head_bytes + self._held_bytes + num_bytes > self.shard_bytes:
            self._write_shard()
        self._held[image_id] = _Held(array, size, scale)
        self._held_bytes += num_bytes
        self._seen.add(image_id)

    def close(self) -> None:
        """Write the images still held. Calling it twice does nothing."""
        if self._held:
            self._write_shard()

    def _check(self, image_id: str, logits: Half) -> None:
        where = f"logits of image '{image_id}', trial {self.header.trial}, view {self.header.view}"
        num_classes = len(self.header.classes)
        if logits.dtype != np.float16 or logits.ndim != 3 or logits.shape[0] != num_classes:
            raise ValueError(
                f"{where} must be ({num_classes},h,w) float16, got {logits.shape} {logits.dtype}; "
                "convert them before they are added"
            )
        if image_id in self._seen or image_id == "__metadata__":
            raise ValueError(f"{where}: an image may be added once, under a name that is not __metadata__")
        # read as integers, inf and NaN are the greatest of int16, -inf and -NaN of uint16: far quicker than isfinite
        bits = logits.view(np.uint16)
        if bits.size and (bits.view(np.int16).max() >= 0x7C00 or bits.max() >= 0xFC00):
            raise ValueError(f"{where} hold NaN or infinity; leave this trial out of the candidates")

    def _write_shard(self) -> None:
        # Written by hand: safetensors' own writer copies every tensor twice before a byte reaches the disk.
        held = self._held
        head = head_bytes(
            self.header,
            {image_id: one.array.shape for image_id, one in held.items()},
            {image_id: one.size_px for image_id, one in held.items()},
            {image_id: one.scale for image_id, one in held.items() if one.scale is not None},
        )

        def write(temporary: Path) -> None:
            with temporary.open("wb", buffering=0) as file:
                file.write(head)
                for one in held.values():
                    one.array.tofile(file)

        write_atomically(self.folder / f"{self.header.view}-{self._num_shards:05d}.safetensors", write)
        self._num_shards += 1
        self._held, self._held_bytes = {}, 0


class LogitStore:
    """All views of one trial on one split. Opening reads headers only; `logits` maps the file's memory.

    Raises ValueError where the folder holds no shard, shards that do not belong together, or an image that its model
    was trained on (see `lineage`), and `TruncatedShard` where one was cut short; with `allow_missing`, what is left of
    such a shard is used, and `lost` names its images that are not (none where its header is gone too). Travels between
    processes as its folder alone.
    """

    def __init__(self, folder: Path, *, allow_missing: bool = False) -> None:
        self.folder, self.allow_missing = folder, allow_missing
        self.lost: dict[Path, tuple[str, ...]] = {}  # shard -> its images that are cut off
        self._maps: dict[Path, mmap.mmap] = {}
        self._read_bytes = 0  # since pages were last given back
        self._entries: dict[str, dict[str, Entry]] = {}  # view -> image_id -> where
        self._sizes: dict[str, tuple[int, int]] = {}
        headers: dict[str, LogitHeader] = {}
        for path in sorted(folder.glob("*.safetensors")):
            try:
                shard = read_shard(path, allow_missing)
            except TruncatedShard as cut:
                if not allow_missing:
                    raise
                self.lost[path] = cut.image_ids
                continue
            header, entries = shard.header, shard.entries
            if shard.lost:
                self.lost[path] = shard.lost
            known = self._entries.setdefault(header.view, {})
            twice = known.keys() & entries.keys()
            if twice:
                raise ValueError(f"{path} holds image '{min(twice)}' again; delete the view and write it anew")
            known.update(entries)
            self._sizes.update({image_id: entry.size_px for image_id, entry in entries.items()})
            headers.setdefault(header.view, header)
            _check_headers(next(iter(headers.values())), folder, header, path, ignoring=_OF_A_VIEW)
        if not headers:
            what = "whole shard of logits" if self.lost else "logits (*.safetensors)"
            raise ValueError(f"{folder} holds no {what}; run the logits stage first")
        self._headers = headers
        if self.header.lineage:
            part = self.header.split
            assert part != "train", "a teacher's store has no lineage"
            read_lineage(folder, self.header.lineage).check(part, self._sizes, folder)

    def __reduce__(self) -> tuple[Callable[..., LogitStore], tuple[Path]]:
        return partial(LogitStore, allow_missing=self.allow_missing), (self.folder,)

    @property
    def header(self) -> LogitHeader:
        """The first view's header; of the others only `view`, `stride` and `dtype` may differ."""
        return self._headers[self.views[0]]

    @property
    def views(self) -> tuple[str, ...]:
        return tuple(sorted(self._entries))

    @property
    def image_ids(self) -> tuple[str, ...]:
        """The images that every view has, sorted."""
        return tuple(sorted(set.intersection(*(set(entries) for entries in self._entries.values()))))

    @property
    def sizes(self) -> dict[str, tuple[int, int]]:
        """image_id -> (H,W) of its label."""
        return self._sizes

    def has(self, view: str, ids: Iterable[str]) -> bool:
        """Whether every image of `ids` is there in this view."""
        return set(ids) <= self._entries.get(view, {}).keys()

    def ids_of(self, view: str) -> tuple[str, ...]:
        """The images of one view, sorted."""
        return tuple(sorted(self._entries.get(view, {})))

    def missing(self, view: str, ids: Iterable[str]) -> list[str]:
        return sorted(set(ids) - self._entries.get(view, {}).keys())

    def size_px(self, view: str, image_id: str) -> tuple[int, int]:
        return self._entry(view, image_id).size_px

    def dtype_of(self, view: str) -> Dtype:
        """The type that a view is stored in."""
        return self._headers[view].dtype

    def logits(self, view: str, image_id: str) -> Half | Float:
        """(K,h,w): float16, a read-only view of the mapped file; or float32, where it is stored in 8 bits."""
        entry = self._entry(view, image_id)
        mapped, count = self._mapped(entry), math.prod(entry.shape)
        if entry.scale is None:
            half: Half = np.frombuffer(mapped, np.float16, count, entry.offset)
            return half.reshape(entry.shape)
        levels: Levels = np.frombuffer(mapped, np.uint8, count, entry.offset)
        return decode(levels, entry.scale).reshape(entry.shape)

    def _mapped(self, entry: Entry) -> mmap.mmap:
        """The entry's whole file. Pages that were read long ago are given back: they stay in the page cache, and an
        array over them stays valid, but this process's memory does not grow with the number of images."""
        self._read_bytes += entry.num_bytes
        if self._read_bytes > RESIDENT_BYTES:
            for each in self._maps.values():
                each.madvise(mmap.MADV_DONTNEED)
            self._read_bytes = entry.num_bytes
        if entry.path not in self._maps:
            with entry.path.open("rb") as file:
                self._maps[entry.path] = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return self._maps[entry.path]

    def _entry(self, view: str, image_id: str) -> Entry:
        try:
            return self._entries[view][image_id]
        except KeyError:
            have = f"views {', '.join(self.views)}" if view not in self._entries else "other images of this view"
            raise ValueError(
                f"{self.folder} has no logits of image '{image_id}' in view '{view}' (it has {have}); "
                "run the logits stage again"
            ) from None


_OF_A_VIEW = {"view", "stride", "dtype"}  # what the views of one store may differ in


def check_together(stores: Sequence[LogitStore], *, one_split: bool = True) -> None:
    """Raises ValueError, naming the two stores and the rule, where they are of different classes, splits or data.

    With `one_split=False` val and hold-out may be mixed, as long as both come from one split of the data.
    """
    shared = {"classes", "data_fingerprint", "split_fingerprint"} | ({"split"} if one_split else set())
    own = {f.name for f in fields(LogitHeader)} - shared
    for store in stores[1:]:
        _check_headers(stores[0].header, stores[0].folder, store.header, store.folder, ignoring=own)


def forecast_bytes(
    num_images: int, num_classes: int, grids: Iterable[tuple[int, int]], dtype: Dtype = "float16"
) -> int:
    """Bytes that one trial's logits of `num_images` images will take; `grids` has (h,w) of each view's logits."""
    _, item_bytes = TENSOR_DTYPES[dtype]
    share = 160 if dtype == "float16" else 205  # an image's share of the header
    return num_images * sum(num_classes * height * width * item_bytes + share for height, width in grids)


def _check_headers(first: LogitHeader, there: Path, other: LogitHeader, here: Path, ignoring: set[str]) -> None:
    for name, value in asdict(first).items():
        found = getattr(other, name)
        if name not in ignoring and found != value:
            raise ValueError(
                f"logits that are used together must have the same {name.replace('_', ' ')}: {there} has {value!r}, "
                f"{here} has {found!r}; write both from one data card and one split"
            )
