"""Predicts the logits of one test-time view: (K,h,w) float16 at the head's own stride, turns and flips undone.

In a mirrored view the classes of each flip pair change places.

A view's size is a multiple of 32 px, so the logit grid covers the image exactly and one bilinear resize
(`at_label_size`) takes it to the label's size.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainables.data.augment.normalise import normalise
from trainables.data.augment.pipeline import view_size
from trainables.device import autocast_dtype, float32_products, memory_layout
from trainables.logits.sources import ImageSource
from trainables.logits.tiles import tiled_logits
from trainables.logits.view import View
from trainables.models.probability_mean import Network
from trainables.models.resize import resize
from trainables.recipe.recipe import Amp, Recipe
from trainables.worker_process import is_out_of_memory, release_memory


@dataclass(frozen=True)
class Inference:
    """A model, and how it is run on images."""

    model: Network
    short_px: int | None  # shorter side of the image at scale 1; None: as it is
    device: str
    batch_size: int  # images of one size at a time, at most
    amp: Amp
    flip_pairs: tuple[tuple[int, int], ...] = ()  # classes that change places in a mirrored view

    @classmethod
    def of(
        cls,
        recipe: Recipe,
        model: Network,
        device: str,
        batch_size: int,
        flip_pairs: tuple[tuple[int, int], ...] = (),
    ) -> Inference:
        """The inference with which the trial of `recipe` validates its own model."""
        return cls(model, recipe.augmentation.short_px, device, batch_size, recipe.train.amp, flip_pairs)


def view_logits(
    inference: Inference, images: ImageSource, ids: Sequence[str], view: View
) -> Iterator[tuple[str, NDArray[np.float16]]]:
    """Yield (image_id, logits (K,h,w)) for every id, images of one size together (so not in the order of `ids`)."""
    for batch_ids, logits in view_batches(inference, images, ids, view):
        yield from zip(batch_ids, logits.cpu().numpy(), strict=True)


def view_batches(
    inference: Inference, images: ImageSource, ids: Sequence[str], view: View
) -> Iterator[tuple[list[str], Tensor]]:
    """`view_logits` a batch at a time, still on the device: (ids, logits (B,K,h,w) float16).

    A batch that does not fit the device's memory goes through in halves, as all after it do. The model is left in the
    mode (training or not) that it came in.
    """
    model, device = inference.model, inference.device
    logits_of = _Halving(partial(_forward, inference))
    sizes = _equal_sizes(inference, images, ids, view)
    was_training = model.training
    model.to(device).eval()
    try:
        for batch_ids, batch in _ahead(images, sizes, view, device):
            images_there = batch.to(device, non_blocking=True)
            if view.tile is None:
                found = logits_of(images_there)
            else:
                found = tiled_logits(logits_of, images_there, view.tile, inference.batch_size)
            logits = view.undo(found).half().contiguous()
            yield batch_ids, _sides_restored(logits, view, inference.flip_pairs)
    finally:
        model.train(was_training)


def at_label_size(logits: Tensor, size: tuple[int, int]) -> Tensor:  # (B,K,h,w) -> (B,K,H,W)
    """A view's logits at the label's own resolution, float32."""
    return resize(logits.float(), size)


class _Halving:
    """`forward` of as many images (B,...) at once as the memory has held so far: half as many after each time that they
    did not fit. Raises what `forward` raises where one image does not fit."""

    def __init__(self, forward: Callable[[Tensor], Tensor]) -> None:
        self.forward, self.most = forward, sys.maxsize

    def __call__(self, images: Tensor) -> Tensor:
        while True:
            most = min(self.most, len(images))
            try:
                return torch.cat([self.forward(part) for part in torch.split(images, most)])
            except Exception as error:
                if most == 1 or not is_out_of_memory(error):
                    raise
                self.most = most // 2
            release_memory()  # after the exception, whose frames held what did not fit


@torch.no_grad()  # not inference_mode: what a backbone caches here must serve in training too
def _forward(inference: Inference, images: Tensor) -> Tensor:  # (B,3,H,W) uint8 -> (B,K,h,w)
    model, dtype = inference.model, autocast_dtype(inference.amp, inference.device)
    with float32_products(inference.amp), torch.autocast(images.device.type, dtype=dtype, enabled=dtype is not None):
        logits: Tensor = model(normalise(images, model.mean, model.std))
    return logits


def _sides_restored(logits: Tensor, view: View, pairs: tuple[tuple[int, int], ...]) -> Tensor:  # (B,K,h,w) -> (B,K,h,w)
    """What a mirrored view shows as a left shoe is a right one."""
    if view.flip == "none" or not pairs:
        return logits
    order = list(range(logits.shape[1]))
    for a, b in pairs:
        order[a], order[b] = b, a
    return logits[:, order]


def _equal_sizes(
    inference: Inference, images: ImageSource, ids: Sequence[str], view: View
) -> list[tuple[tuple[int, int], list[str]]]:
    """Batches of ids whose views have one size (h, w)."""
    by_size: dict[tuple[int, int], list[str]] = {}
    for image_id in ids:
        height, width = images.size(image_id)
        by_size.setdefault(view_size(height, width, inference.short_px, view.scale), []).append(image_id)
    most = inference.batch_size
    return [(size, same[i : i + most]) for size, same in by_size.items() for i in range(0, len(same), most)]


def _ahead(
    images: ImageSource, batches: list[tuple[tuple[int, int], list[str]]], view: View, device: str
) -> Iterator[tuple[list[str], Tensor]]:
    """Read one batch while the model works on another."""
    with ThreadPoolExecutor(max_workers=1) as pool:
        pending: deque[tuple[list[str], Future[Tensor]]] = deque()
        for size, batch_ids in batches:
            pending.append((batch_ids, pool.submit(_read, images, batch_ids, size, view, device)))
            if len(pending) == 2:
                done_ids, future = pending.popleft()
                yield done_ids, future.result()
        for done_ids, future in pending:
            yield done_ids, future.result()


def _read(
    images: ImageSource, ids: list[str], size: tuple[int, int], view: View, device: str
) -> Tensor:  # -> (B,3,h,w) uint8
    height, width = size
    batch = np.empty((len(ids), height, width, 3), dtype=np.uint8)
    for i, image_id in enumerate(ids):
        # bilinear also where it shrinks: what the model saw in training
        batch[i] = cv2.resize(images.image(image_id), (width, height), interpolation=cv2.INTER_LINEAR)
    seen = view.apply(torch.from_numpy(batch).permute(0, 3, 1, 2)).contiguous(memory_format=memory_layout(device))
    return seen.pin_memory() if device.startswith("cuda") else seen  # else the copy would wait for the model
