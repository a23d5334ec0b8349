"""Logits of one test-time view.

Enters: a segmentor, the cache and image ids. Leaves: for each image the logits (K,h,w) float16 at the head's own
stride, turns and flips undone. A view's size is a multiple of 32 px, so the logit grid covers the image exactly and
one bilinear resize (`at_label_size`) takes it to the label's size.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal, get_args

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from trainables.data.cache import Cache
from trainables.data.transforms import view_size
from trainables.models.segmentor import Segmentor

Flip = Literal["none", "horizontal", "vertical"]
Turn = Literal[0, 90, 180, 270]  # degrees, anticlockwise
Amp = Literal["auto", "bf16", "fp16", "off"]
_FLIPPED_AXIS: dict[Flip, int | None] = {"none": None, "horizontal": -1, "vertical": -2}  # of (..,H,W)


@dataclass(frozen=True)
class View:
    """One way to look at an image: resized by `scale` (two decimals), then turned, then flipped."""

    scale: float = 1.0
    flip: Flip = "none"
    turn: Turn = 0

    def __post_init__(self) -> None:
        if not 0.01 <= self.scale <= 99.99 or round(self.scale, 2) != self.scale:
            raise ValueError(f"a view's scale must be 0.01 to 99.99 with two decimals, got {self.scale}; round it")
        if self.flip not in get_args(Flip):
            raise ValueError(f"a view's flip must be one of {', '.join(get_args(Flip))}, got {self.flip!r}")

        if self.turn not in get_args(Turn):
            raise ValueError(f"a view's turn must be 0, 90, 180 or 270 degrees, got {self.turn!r}")

    @property
    def name(self) -> str:
        """'s1.00-none', 's1.00-r90-none'. No name begins with another's and a dash: shards are found by that."""
        return f"s{self.scale:.2f}-" + (f"r{self.turn}-" if self.turn else "") + self.flip

    @property
    def pose(self) -> tuple[float, bool, int]:
        """Scale, whether mirrored, and turn: equal for names of one picture, as a vertical flip is a horizontal one
        turned by 180 degrees."""
        turn = self.turn + 180 * (self.flip == "vertical")
        return self.scale, self.flip != "none", turn % 360

    @classmethod
    def parse(cls, name: str) -> View:
        """The view of a `name`; ValueError where it is none."""
        found = re.fullmatch(r"s(\d{1,2}\.\d\d)-(?:r(90|180|270)-)?(none|horizontal|vertical)", name)
        if found is None:
            raise ValueError(f"a view is named like 's1.25-horizontal' or 's1.00-r90-none', got {name!r}")
        return cls(float(found[1]), found[3], int(found[2] or 0))  # type: ignore[arg-type]

    def apply(self, images: Tensor) -> Tensor:  # (..,H,W) -> (..,H,W), or (..,W,H) on its side
        """Turned and flipped."""
        axis = _FLIPPED_AXIS[self.flip]
        turned = torch.rot90(images, self.turn // 90, (-2, -1)) if self.turn else images
        return turned if axis is None else turned.flip(axis)

    def undo(self, logits: Tensor) -> Tensor:  # (..,h,w)
        """What `apply` did, undone."""
        axis = _FLIPPED_AXIS[self.flip]
        turned = logits if axis is None else logits.flip(axis)
        return torch.rot90(turned, -(self.turn // 90), (-2, -1)) if self.turn else turned


def autocast_dtype(amp: Amp, device: str) -> torch.dtype | None:
    """The low precision that `amp` asks for on this device, or None; 'auto' is bf16 on a GPU that computes in it."""
    if amp == "auto":
        native = device.startswith("cuda") and torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if native else None
    return {"bf16": torch.bfloat16, "fp16": torch.float16, "off": None}[amp]


def view_logits(
    model: Segmentor,
    cache: Cache,
    ids: Sequence[str],
    view: View,
    *,
    short_px: int | None,
    device: str,
    batch_size: int,
    amp: Amp,
) -> Iterator[tuple[str, NDArray[np.float16]]]:
    """Yield (image_id, logits (K,h,w)) for every id, images of one size together (so not in the order of `ids`)."""
    batches = view_batches(model, cache, ids, view, short_px=short_px, device=device, batch_size=batch_size, amp=amp)
    for batch_ids, logits in batches:
        yield from zip(batch_ids, logits.cpu().numpy(), strict=True)


def view_batches(
    model: Segmentor,
    cache: Cache,
    ids: Sequence[str],
    view: View,
    *,
    short_px: int | None,
    device: str,
    batch_size: int,
    amp: Amp,
) -> Iterator[tuple[list[str], Tensor]]:
    """`view_logits` a batch at a time, still on the device: (ids, logits (B,K,h,w) float16).

    The model is left in the mode (training or not) that it came in.
    """
    dtype = autocast_dtype(amp, device)
    was_training = model.training
    model.to(device).eval()
    try:
        for batch_ids, images in _ahead(cache, _equal_sizes(cache, ids, view, short_px, batch_size), view):
            yield batch_ids, _forward(model, images.to(device, non_blocking=True), view, dtype)
    finally:
        model.train(was_training)


def at_label_size(logits: Tensor, size: tuple[int, int]) -> Tensor:  # (B,K,h,w) -> (B,K,H,W)
    """A view's logits at the label's own resolution, float32."""
    return F.interpolate(logits.float(), size=size, mode="bilinear", align_corners=False)


@torch.no_grad()  # not inference_mode: what a backbone caches here must serve in training too
def _forward(
    model: Segmentor, images: Tensor, view: View, dtype: torch.dtype | None
) -> Tensor:  # (B,3,H,W) uint8 -> (B,K,h,w)
    mean, std = (torch.tensor(v, device=images.device).view(1, 3, 1, 1) * 255.0 for v in (model.mean, model.std))
    with torch.autocast(images.device.type, dtype=dtype, enabled=dtype is not None):
        logits = model((images.float() - mean) / std)
    return view.undo(logits).half().contiguous()


def _equal_sizes(
    cache: Cache, ids: Sequence[str], view: View, short_px: int | None, batch_size: int
) -> list[tuple[tuple[int, int], list[str]]]:
    """Batches of ids whose views have one size (h, w)."""
    by_size: dict[tuple[int, int], list[str]] = {}
    for image_id in ids:
        height, width = cache.size(image_id)
        by_size.setdefault(view_size(height, width, short_px, view.scale), []).append(image_id)
    return [(size, same[i : i + batch_size]) for size, same in by_size.items() for i in range(0, len(same), batch_size)]


def _ahead(
    cache: Cache, batches: list[tuple[tuple[int, int], list[str]]], view: View
) -> Iterator[tuple[list[str], Tensor]]:
    """Read one batch while the model works on another."""
    with ThreadPoolExecutor(max_workers=1) as pool:
        pending: deque[tuple[list[str], Future[Tensor]]] = deque()
        for size, batch_ids in batches:
            pending.append((batch_ids, pool.submit(_read, cache, batch_ids, size, view)))
            if len(pending) == 2:
                done_ids, future = pending.popleft()
                yield done_ids, future.result()
        for done_ids, future in pending:
            yield done_ids, future.result()


def _read(cache: Cache, ids: list[str], size: tuple[int, int], view: View) -> Tensor:  # -> (B,3,h,w) uint8
    height, width = size
    batch = np.empty((len(ids), height, width, 3), dtype=np.uint8)
    for i, image_id in enumerate(ids):
        # bilinear also where it shrinks: what the model saw in training
        batch[i] = cv2.resize(cache.image(image_id), (width, height), interpolation=cv2.INTER_LINEAR)
    images = torch.from_numpy(batch).permute(0, 3, 1, 2)
    return view.apply(images).contiguous()
