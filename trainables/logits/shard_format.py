"""The format of a shard: a safetensors file of one trial, split and view that describes itself.

The metadata holds `format`, `header` (JSON of `LogitHeader`), `sizes` (JSON: image_id -> [H, W] of the label) and, in
8 bits, `scales` (JSON: image_id -> float). A tensor's name is its image_id; it is (K,h,w), either F16 (the logits) or
U8 (levels: the logits are `-scale * levels**2`, see `quantise`).
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

from trainables.plain_json import parse_json

FORMAT = "segsearch-logits/1"
Dtype: TypeAlias = Literal["float16", "uint8"]
REMEDY = "delete it and let the logits stage write this view again"
MAX_HEADER_BYTES = 10**8  # safetensors' own bound
MAX_FILE_BYTES = 2**48
MAX_SIDE_PX = 2**20
TENSOR_DTYPES: dict[str, tuple[str, int]] = {"float16": ("F16", 2), "uint8": ("U8", 1)}  # safetensors' name, bytes


@dataclass(frozen=True, kw_only=True)
class LogitHeader:
    """Describes a shard's logits. All shards of a store agree in everything but `view`, `stride` and `dtype`."""

    trial: str
    recipe_hash: str
    family: str
    split: Literal["val", "holdout", "train"]  # train: what a teacher says of the images that its student learns from
    view: str  # a view's name, such as 's1.00-none'; flips are already undone
    classes: tuple[str, ...]  # (K,), in the order of the logits
    stride: int  # of the head, in pixels of the view's own image
    dtype: Dtype = "float16"
    data_fingerprint: str
    split_fingerprint: str
    checkpoint_fingerprint: str
    lineage: str = ""  # fingerprint of lineage.json beside the shards, where several models predicted the images

    def __post_init__(self) -> None:
        if self.dtype not in get_args(Dtype):
            raise ValueError(f"logits must be {' or '.join(get_args(Dtype))}, got {self.dtype!r}; name one of these")


class _Broken(ValueError):
    """What is wrong with a header, without the path and the remedy."""


class TruncatedShard(ValueError):
    """A shard that is shorter than its own header says, or whose header cannot be read (then `image_ids` is empty)."""

    def __init__(self, path: Path, reason: str, image_ids: Sequence[str] = ()) -> None:
        named = ", ".join(image_ids[:10]) + (", ..." if len(image_ids) > 10 else "")
        lost = f" (images cut off: {len(image_ids)}, {named})" if image_ids else ""
        super().__init__(f"{path} is cut short{lost}: {reason}; {REMEDY}")
        self.path = path
        self.image_ids = tuple(image_ids)


@dataclass(frozen=True)
class Entry:
    """The place of one image's tensor in a file."""

    path: Path
    offset: int  # bytes from the start of the file
    shape: tuple[int, int, int]
    size_px: tuple[int, int]
    scale: float | None  # of 8-bit levels

    @property
    def num_bytes(self) -> int:
        return math.prod(self.shape) * (2 if self.scale is None else 1)


@dataclass(frozen=True)
class Shard:
    """A shard's header, its images that are whole, and the names of those that are cut off."""

    header: LogitHeader
    entries: Mapping[str, Entry]
    lost: tuple[str, ...]


def head_bytes(
    header: LogitHeader,
    shapes: Mapping[str, tuple[int, ...]],
    sizes: Mapping[str, tuple[int, int]],
    scales: Mapping[str, float],
) -> bytes:
    """All that comes before the tensors' bytes, which follow in the order of `shapes`."""
    name, item_bytes = TENSOR_DTYPES[header.dtype]
    tensors: dict[str, Any] = {}
    offset = 0
    for image_id, shape in shapes.items():
        end = offset + math.prod(shape) * item_bytes
        tensors[image_id] = {"dtype": name, "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    meta = {"format": FORMAT, "header": json.dumps(asdict(header)), "sizes": json.dumps(sizes)}
    if scales:
        meta["scales"] = json.dumps(scales)
    head = json.dumps({"__metadata__": meta, **tensors}, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 8)
    return struct.pack("<Q", len(head)) + head


def read_shard(path: Path, allow_missing: bool) -> Shard:
    """A shard's header and entries. Raises `TruncatedShard` where it was cut short (with `allow_missing` only where
    none of its images can be named), ValueError where it is not a shard or contradicts itself."""
    if not path.is_file():
        raise ValueError(f"{path} must be a logit shard, got no file; {REMEDY}")
    num_bytes = path.stat().st_size
    with path.open("rb") as file:
        lead = file.read(8)
        length = struct.unpack("<Q", lead)[0] if len(lead) == 8 else 0
        if len(lead) < 8 or 8 + length > num_bytes:
            raise TruncatedShard(path, f"its header ends after byte {num_bytes}")
        if length > MAX_HEADER_BYTES:
            raise ValueError(f"{path} must have a header of at most {MAX_HEADER_BYTES} bytes, got {length}; {REMEDY}")
        text = file.read(length)
    try:
        raw = parse_json(text)
        meta = raw.pop("__metadata__", {})
        if meta.get("format") != FORMAT:
            raise _Broken(f"format {meta.get('format')!r:.60}")
        header = _header(parse_json(meta["header"]))
        entries = _entries(path, header, raw, meta, start=8 + length)
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError) as error:
        reason = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
        raise ValueError(
            f"{path} must be a logit shard of {FORMAT}, got a broken header ({reason:.300}); {REMEDY}"
        ) from None
    ends = {image_id: entry.offset + entry.num_bytes for image_id, entry in entries.items()}
    lost = tuple(sorted(image_id for image_id, end in ends.items() if end > num_bytes))
    if lost and not allow_missing:
        raise TruncatedShard(path, f"it has {num_bytes} of {max(ends.values())} bytes", lost)
    return Shard(header, {image_id: entry for image_id, entry in entries.items() if image_id not in lost}, lost)


def _header(values: dict[str, Any]) -> LogitHeader:
    """Raises _Broken for a field of another type."""
    texts = [field.name for field in fields(LogitHeader) if field.name not in ("classes", "stride")]
    wrong = [name for name in texts if not isinstance(values.get(name, "float16"), str)]
    classes, stride = values["classes"], values["stride"]
    if wrong or not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
        raise _Broken(f"no text as {', '.join(wrong) or 'classes'}")
    if type(stride) is not int or not 1 <= stride <= MAX_SIDE_PX:
        raise _Broken(f"stride {stride!r:.60}")
    return LogitHeader(**{**values, "classes": tuple(classes)})


def _entries(
    path: Path, header: LogitHeader, raw: dict[str, Any], meta: dict[str, str], start: int
) -> dict[str, Entry]:
    dtype, _ = TENSOR_DTYPES[header.dtype]
    sizes = parse_json(meta["sizes"])
    scales = parse_json(meta["scales"]) if header.dtype == "uint8" and raw else {}
    entries = {}
    for image_id, tensor in raw.items():
        first, last = _whole(tensor["data_offsets"], 2, 0, MAX_FILE_BYTES, image_id)
        shape = num_classes, grid_height, grid_width = _whole(tensor["shape"], 3, 1, MAX_SIDE_PX, image_id)
        height, width = _whole(sizes[image_id], 2, 1, MAX_SIDE_PX, image_id)
        scale = _scale(scales[image_id], image_id) if header.dtype == "uint8" else None
        entry = Entry(path, start + first, (num_classes, grid_height, grid_width), (height, width), scale)
        if tensor["dtype"] != dtype or num_classes != len(header.classes) or last - first != entry.num_bytes:
            raise _Broken(
                f"{tensor['dtype']} {shape} in {last - first} bytes for image {image_id!r}, where it must hold "
                f"({len(header.classes)},h,w) {dtype}"
            )
        entries[image_id] = entry
    return entries


def _whole(values: Any, count: int, low: int, high: int, image_id: str) -> tuple[int, ...]:
    """`count` whole numbers within bounds. Raises _Broken."""
    if not isinstance(values, list) or len(values) != count:
        raise _Broken(f"{values!r:.60} for {count} numbers of image {image_id!r}")
    if any(type(value) is not int or not low <= value <= high for value in values):
        raise _Broken(f"{values!r:.60} of image {image_id!r}, which must be whole numbers from {low} to {high}")
    return tuple(values)


def _scale(value: Any, image_id: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e6:
        raise _Broken(f"scale {value!r:.60} of image {image_id!r}, which must be a number from 0 to 1e6")
    return float(value)
