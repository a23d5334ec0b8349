"""The logit store: raw logits of one trial on one split, as safetensors shards that describe themselves.

Enters: (K,h,w) float16 logits an image and view, at the head's own stride. Leaves:
`<view>-<shard:05d>.safetensors`, one tensor an image (its name is the image_id), read back memory-mapped, one image
at a time. The metadata of every shard holds `format`, `header` (JSON of `LogitHeader`) and `sizes` (JSON: image_id
-> [H, W] of the label), so that any safetensors reader can use it without this module.
"""

from __future__ import annotations

import json
import mmap
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

FORMAT = "segsearch-logits/1"
SHARD_BYTES = 256 * 2**20
Half = NDArray[np.float16]


@dataclass(frozen=True, kw_only=True)
class LogitHeader:
    """What a shard's logits are. All shards of a store agree in everything but `view`."""

    trial: str
    recipe_hash: str
    family: str
    split: Literal["val", "holdout"]
    view: str  # a view's name, such as 's1.00-none'; flips are already undone
    classes: tuple[str, ...]  # (K,), in the order of the logits
    stride: int  # of the head, in pixels of the view's own image
    dtype: Literal["float16"] = "float16"
    data_fingerprint: str
    split_fingerprint: str
    checkpoint_fingerprint: str


class TruncatedShard(ValueError):
    """A shard that is shorter than its own header says, or whose header cannot be read."""

    def __init__(self, path: Path, reason: str, image_ids: Sequence[str] = ()) -> None:
        named = ", ".join(image_ids[:10]) + (", ..." if len(image_ids) > 10 else "")
        lost = f" (images cut off: {len(image_ids)}, {named})" if image_ids else ""
        super().__init__(
            f"{path} is cut short{lost}: {reason}; delete it and let the logits stage write this view again"
        )
        self.path = path
        self.image_ids = tuple(image_ids)


@dataclass(frozen=True)
class _Entry:
    path: Path
    offset: int  # bytes from the start of the file
    shape: tuple[int, int, int]
    size_px: tuple[int, int]


class LogitWriter:
    """Writes one view of one trial and split. Shards of that view that lie in `folder` are replaced.

    An array given to `add` is kept, not copied, until its shard is written: do not reuse its memory.
    """

    def __init__(self, folder: Path, header: LogitHeader, shard_bytes: int = SHARD_BYTES) -> None:
        self.folder, self.header, self.shard_bytes = folder, header, shard_bytes
        self._held: dict[str, tuple[Half, tuple[int, int]]] = {}
        self._held_bytes = 0
        self._seen: set[str] = set()
        self._num_shards = 0
        folder.mkdir(parents=True, exist_ok=True)
        for stale in [*folder.glob(f"{header.view}-*.safetensors"), *folder.glob(f".{header.view}-*.partial")]:
            stale.unlink()

    def __enter__(self) -> LogitWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, _e: BaseException | None, _t: TracebackType | None) -> None:
        if kind is None:
            self.close()

    def add(self, image_id: str, logits: Half, size: tuple[int, int]) -> None:
        """Takes logits (K,h,w) float16 of one image whose label has `size` (H,W). Raises ValueError on a wrong
        shape or type, a second array of one image, and logits that are not finite."""
        self._check(image_id, logits)
        if self._held and self._held_bytes + logits.nbytes > self.shard_bytes:
            self._write_shard()
        self._held[image_id] = (np.ascontiguousarray(logits), size)
        self._held_bytes += logits.nbytes
        self._seen.add(image_id)

    def close(self) -> None:
        """Writes what is still held. Calling it twice does nothing."""
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
        if ((logits.view(np.uint16) & 0x7C00) == 0x7C00).any():  # all exponent bits set; 8 times quicker than isfinite
            raise ValueError(f"{where} hold NaN or infinity; leave this trial out of the candidates")

    def _write_shard(self) -> None:
        # Written by hand: safetensors' own writer copies every tensor twice before a byte reaches the disk.
        tensors: dict[str, Any] = {}
        offset = 0
        for image_id, (array, _) in self._held.items():
            span = [offset, offset + array.nbytes]
            tensors[image_id] = {"dtype": "F16", "shape": list(array.shape), "data_offsets": span}
            offset = span[1]
        sizes = {image_id: list(size) for image_id, (_, size) in self._held.items()}
        meta = {"format": FORMAT, "header": json.dumps(asdict(self.header)), "sizes": json.dumps(sizes)}
        head = json.dumps({"__metadata__": meta, **tensors}, separators=(",", ":")).encode()
        head += b" " * (-len(head) % 8)
        name = f"{self.header.view}-{self._num_shards:05d}.safetensors"
        partial = self.folder / f".{name}.partial"
        with partial.open("wb", buffering=0) as file:
            file.write(struct.pack("<Q", len(head)) + head)
            for array, _ in self._held.values():
                array.tofile(file)
        partial.replace(self.folder / name)
        self._num_shards += 1
        self._held, self._held_bytes = {}, 0


class LogitStore:
    """All views of one trial on one split. Opening reads headers only; `logits` maps the file's memory.

    Raises ValueError where the folder holds no shard or shards that do not belong together, and `TruncatedShard`
    where one was cut short; with `allow_missing`, what is left of such a shard is used, and `lost` names its images
    that are not. Travels between processes as its folder alone.
    """

    def __init__(self, folder: Path, *, allow_missing: bool = False) -> None:
        self.folder, self.allow_missing = folder, allow_missing
        self.lost: dict[Path, tuple[str, ...]] = {}  # shard -> its images that are cut off
        self._maps: dict[Path, mmap.mmap] = {}
        self._entries: dict[str, dict[str, _Entry]] = {}  # view -> image_id -> where
        self._sizes: dict[str, tuple[int, int]] = {}
        headers: dict[str, LogitHeader] = {}
        for path in sorted(folder.glob("*.safetensors")):
            header, entries, lost = _read_shard(path, allow_missing)
            if lost:
                self.lost[path] = lost
            known = self._entries.setdefault(header.view, {})
            twice = known.keys() & entries.keys()
            if twice:
                raise ValueError(f"{path} holds image '{min(twice)}' again; delete the view and write it anew")
            known.update(entries)
            self._sizes.update({image_id: entry.size_px for image_id, entry in entries.items()})
            headers.setdefault(header.view, header)
            _check_headers(next(iter(headers.values())), folder, header, path, ignoring={"view", "stride"})
        if not headers:
            raise ValueError(f"{folder} holds no logits (*.safetensors); run the logits stage first")
        self._headers = headers

    def __reduce__(self) -> tuple[Callable[..., LogitStore], tuple[Path]]:
        return partial(LogitStore, allow_missing=self.allow_missing), (self.folder,)

    @property
    def header(self) -> LogitHeader:
        """The first view's header; of the others only `view` and `stride` may differ."""
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

    def logits(self, view: str, image_id: str) -> Half:
        """(K,h,w) float16, a read-only view of the mapped file."""
        entry = self._entry(view, image_id)
        if entry.path not in self._maps:
            with entry.path.open("rb") as file:
                self._maps[entry.path] = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        count = int(np.prod(entry.shape))
        flat = np.frombuffer(self._maps[entry.path], np.float16, count, entry.offset)
        return flat.reshape(entry.shape)  # (K,h,w)

    def _entry(self, view: str, image_id: str) -> _Entry:
        try:
            return self._entries[view][image_id]
        except KeyError:
            have = f"views {', '.join(self.views)}" if view not in self._entries else "other images of this view"
            raise ValueError(
                f"{self.folder} has no logits of image '{image_id}' in view '{view}' (it has {have}); "
                "run the logits stage again"
            ) from None


def check_together(stores: Sequence[LogitStore], *, one_split: bool = True) -> None:
    """Raises ValueError, naming the two stores and the rule, where they are of different classes, splits or data.

    With `one_split=False` val and hold-out may meet, as long as both come from one division of the data.
    """
    shared = {"classes", "data_fingerprint", "split_fingerprint"} | ({"split"} if one_split else set())
    own = {f.name for f in fields(LogitHeader)} - shared
    for store in stores[1:]:
        _check_headers(stores[0].header, stores[0].folder, store.header, store.folder, ignoring=own)


def forecast_bytes(num_images: int, num_classes: int, grids: Iterable[tuple[int, int]]) -> int:
    """Bytes that one trial's logits of `num_images` images will take; `grids` has (h,w) of each view's logits."""
    per_image = sum(num_classes * height * width * 2 + 160 for height, width in grids)  # 160: its share of the header
    return num_images * per_image


def _check_headers(first: LogitHeader, there: Path, other: LogitHeader, here: Path, ignoring: set[str]) -> None:
    for name, value in asdict(first).items():
        found = getattr(other, name)
        if name not in ignoring and found != value:
            raise ValueError(
                f"logits that are used together must have the same {name.replace('_', ' ')}: {there} has {value!r}, "
                f"{here} has {found!r}; write both from one data card and one split"
            )


def _read_shard(path: Path, allow_missing: bool) -> tuple[LogitHeader, dict[str, _Entry], tuple[str, ...]]:
    """Its header, where its images lie, and which of them are cut off."""
    num_bytes = path.stat().st_size
    with path.open("rb") as file:
        lead = file.read(8)
        length = struct.unpack("<Q", lead)[0] if len(lead) == 8 else 0
        if len(lead) < 8 or 8 + length > num_bytes:
            raise TruncatedShard(path, f"its header ends after byte {num_bytes}")
        raw = json.loads(file.read(length))
    meta = raw.pop("__metadata__", {})
    if meta.get("format") != FORMAT:
        raise ValueError(f"{path} must have format {FORMAT}, got {meta.get('format')}; it is no shard of logits")
    needed = 8 + length + max((entry["data_offsets"][1] for entry in raw.values()), default=0)
    lost = tuple(sorted(name for name, entry in raw.items() if 8 + length + entry["data_offsets"][1] > num_bytes))
    if lost and not allow_missing:
        raise TruncatedShard(path, f"it has {num_bytes} of {needed} bytes", lost)
    raw = {name: entry for name, entry in raw.items() if name not in lost}
    header_values = json.loads(meta["header"])
    header = LogitHeader(**{**header_values, "classes": tuple(header_values["classes"])})
    return header, dict(_entries_of(path, raw, json.loads(meta["sizes"]), 8 + length)), lost


def _entries_of(
    path: Path, raw: dict[str, Any], sizes: dict[str, list[int]], start: int
) -> Iterator[tuple[str, _Entry]]:
    for image_id, entry in raw.items():
        height, width = sizes[image_id]
        shape = (entry["shape"][0], entry["shape"][1], entry["shape"][2])
        yield image_id, _Entry(path, start + entry["data_offsets"][0], shape, (height, width))
