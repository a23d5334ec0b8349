"""The train set and its loader: batches of augmented images (B,3,h,w) and labels (B,h,w), h = w = crop_px. With soft
labels, these too: what a teacher says of every SOFT_STRIDE_PX-th pixel of the crop.

Every draw is a function of (seed, epoch, position) alone, of the epoch modulo `num_views` where images have that many,
and the order one of (seed, epoch): neither workers, nor earlier batches, nor torch's global generator change anything,
and nothing here draws from the latter.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from trainables.data.augment.mix_sources import Sources
from trainables.data.augment.normalise import normalise
from trainables.data.augment.pipeline import reseed, train_transform
from trainables.data.augment.source_map import follow, source_map
from trainables.data.cache import Cache
from trainables.data.flip_pairs import swap_table
from trainables.device import memory_layout
from trainables.ranks import ALONE, Ranks
from trainables.recipe.augmentation import Augmentation

# image (3,h,w) uint8, label (h,w) int64, position; with a teacher its logits (K,h/4,w/4) float16, NaN where it has
# none; or, for consistency, strong views (2,3,h,w) uint8 and the pixels (h,w) bool of an unlabelled image
Item = tuple[Tensor, Tensor, int] | tuple[Tensor, Tensor, int, Tensor] | tuple[Tensor, Tensor, int, Tensor, Tensor]
SOFT_STRIDE_PX = 4  # of soft labels in a crop: neighbours say the same, and all classes of all pixels are many
SOFT_START_PX = SOFT_STRIDE_PX // 2
EXTRA_STREAM = 1  # tells the draws of extra images from those of an epoch's order


class SoftSource(Protocol):
    """What a teacher says of images."""

    def grid(self, image_id: str) -> NDArray[np.float32]:
        """Logits (K,h,w) on a grid that covers the image."""
        ...


@dataclass(frozen=True)
class ExtraImages:
    """The last `count` images of a training set are extra ones, such as those with pseudo labels: `share` of every
    batch, rounded. An epoch has every other image once, and goes through the extra ones over as many epochs as it
    takes."""

    count: int
    share: float

    def of_batch(self, batch_size: int) -> int:
        """Extra images in a batch; at least one, and at least one other. ValueError where a batch holds one image."""
        if batch_size < 2:
            raise ValueError(f"a batch of extra and other images must have two at least, got {batch_size}; use 2")
        return min(max(1, round(self.share * batch_size)), batch_size - 1)

    def num_batches(self, num_images: int, batch_size: int) -> int:
        """In an epoch of a set of `num_images`, the extra ones included."""
        return max(1, (num_images - self.count) // (batch_size - self.of_batch(batch_size)))


@dataclass(frozen=True)
class Batch:
    """Input of the model and the loss, on their device."""

    image: Tensor | tuple[Tensor, ...]  # (B,3,H,W) float32, normalised; or what a frozen backbone says of it
    label: Tensor  # (B,H,W) int64, 255 = ignored
    image_id: Tensor  # (B,) int64: positions in the dataset's ids
    soft: Tensor | None = None  # (B,K,H/4,W/4) float16: a teacher's logits, NaN where it has none
    strong: Tensor | None = None  # (B,2,3,H,W) float32, normalised: strong views of unlabelled images
    valid: Tensor | None = None  # (B,H,W) bool: the pixels of unlabelled images, without padding


class TrainSet(Dataset[Item]):
    """The images `ids` of a cache, as one epoch of a trial sees them."""

    def __init__(
        self,
        cache: Cache,
        ids: Sequence[str],
        augmentation: Augmentation,
        seed: int,
        soft: SoftSource | None = None,
        extra: ExtraImages | None = None,
    ) -> None:
        if not ids:
            raise ValueError("a training set needs at least one image, got none; check the split's train_ids")
        self.cache = cache
        self.ids = tuple(ids)
        self.seed = seed
        self.transform = train_transform(augmentation, seed, cache.index.flip_pairs, maps_sources=soft is not None)
        self._soft = soft
        self._swap = swap_table(cache.index.flip_pairs)[: cache.index.num_classes].astype(np.int64)
        self._num_views = augmentation.num_views
        self._rare = augmentation.rare_class_weight
        self._mixes = augmentation.mixes
        wanted = self._mixes or self._rare > 0
        self.num_own = len(self.ids) - (extra.count if extra else 0)  # extra images go into no other image
        self._sources = Sources(cache, self.ids[: self.num_own], augmentation) if wanted else None
        # in shared memory: workers that outlive an epoch must see the next one's number
        self._epoch = torch.zeros((), dtype=torch.int64)
        self._epoch.share_memory_()  # type: ignore[no-untyped-call]

    def set_epoch(self, epoch: int) -> None:
        """From the next pass on, draw and shuffle for `epoch`. Not while a pass is under way."""
        self._epoch.fill_(epoch)

    @property
    def epoch(self) -> int:
        return int(self._epoch)

    @property
    def view(self) -> int:
        """The epoch whose draws this one has: its own, unless images have only so many views."""
        return self.epoch % self._num_views if self._num_views else self.epoch

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, position: int) -> Item:
        """The sample at a position: its own image, or one drawn for it where rare classes are to come more often."""
        reseed(self.transform, self.seed, self.view, position)
        extra: dict[str, Any] = {}
        if self._sources is not None:
            if self._rare > 0 and position < self.num_own:
                position = self._sources.draw(self.transform.py_random, self._rare)
            extra = {"sources": self._sources, "position": position} if self._mixes else {}
        image_id = self.ids[position]
        if self._soft is not None:
            extra["where"] = source_map(*self.cache.size(image_id))
        changed = self.transform(image=self.cache.image(image_id), mask=self.cache.label(image_id), **extra)
        image = torch.from_numpy(np.ascontiguousarray(changed["image"].transpose(2, 0, 1)))  # (3,h,w)
        label = torch.from_numpy(np.ascontiguousarray(changed["mask"]))  # bytes, until on the device
        if self._soft is None:
            return image, label, position
        where = changed["where"][SOFT_START_PX::SOFT_STRIDE_PX, SOFT_START_PX::SOFT_STRIDE_PX]
        soft = follow(self._soft.grid(image_id), where, self.cache.size(image_id), self._swap)
        return image, label, position, torch.from_numpy(soft.astype(np.float16))


class EpochBatches(Sampler[list[int]]):
    """A rank's share of every batch of a `TrainSet`, in an order that is a function of (seed, epoch).

    The batches are the same for any number of ranks. A rank takes every `count`-th item of each: so all ranks' n-th
    micro-batches together are the n-th micro-batch of one rank alone.
    """

    def __init__(
        self, dataset: TrainSet, batch_size: int, seed: int, ranks: Ranks, extra: ExtraImages | None = None
    ) -> None:
        self.dataset = dataset
        self.batch_size = batch_size
        self.seed = seed
        self.ranks = ranks
        self.extra = extra

    def __len__(self) -> int:
        if self.extra is not None:
            return self.extra.num_batches(len(self.dataset), self.batch_size)
        return max(1, len(self.dataset) // self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        if self.extra is not None:
            yield from self._mixed(self.extra)
            return
        order = np.random.default_rng([self.seed, self.dataset.epoch]).permutation(len(self.dataset)).tolist()
        for start in range(0, len(self) * self.batch_size, self.batch_size):
            yield list(self.ranks.share(order[start : start + self.batch_size]))

    def _mixed(self, extra: ExtraImages) -> Iterator[list[int]]:
        """The n-th extra image of the training is a function of (seed, n): an epoch goes on where the last ended."""
        epoch, num_own = self.dataset.epoch, len(self.dataset) - extra.count
        added = extra.of_batch(self.batch_size)
        own = self.batch_size - added
        order = np.random.default_rng([self.seed, epoch]).permutation(num_own).tolist()
        for batch in range(len(self)):
            first = (epoch * len(self) + batch) * added
            drawn = [num_own + _nth(first + n, extra.count, self.seed) for n in range(added)]
            yield list(self.ranks.share([*order[batch * own : (batch + 1) * own], *drawn]))


def _nth(n: int, count: int, seed: int) -> int:
    """The n-th of draws of 0 to count - 1, all of them before any comes again."""
    return int(np.random.default_rng([seed, n // count, EXTRA_STREAM]).permutation(count)[n % count])


def train_loader(
    dataset: TrainSet,
    batch_size: int,
    num_workers: int,
    epoch: int,
    ranks: Ranks = ALONE,
    extra: ExtraImages | None = None,
    *,
    pinned: bool = False,
) -> DataLoader[Item]:
    """A loader of raw batches (for `to_batch`) that starts at `epoch`; of each, `ranks` take their shares. `pinned`
    memory is for batches that go to a GPU: pinning opens one, which a trial on the CPU must not do.

    Build it once: before each later epoch call `dataset.set_epoch`, and its workers stay. The last, short batch is left
    out where the set is larger than a batch. End with `stop_workers` in a `finally`.
    """
    dataset.set_epoch(epoch)
    return DataLoader(
        dataset,
        batch_sampler=EpochBatches(dataset, batch_size, dataset.seed, ranks, extra),
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
        worker_init_fn=_one_thread,
        pin_memory=pinned,
        # without it each new iterator draws its workers' base seed from torch's global generator, and a resumed run,
        # which makes one iterator more, would go on with other dropout masks than an uninterrupted one
        generator=torch.Generator().manual_seed(dataset.seed),
    )


def stop_workers(loader: DataLoader[Item]) -> None:
    """End a loader's workers now, not when the garbage collector comes by. The loader stays usable."""
    iterator = loader._iterator
    if iterator is not None and hasattr(iterator, "_shutdown_workers"):
        iterator._shutdown_workers()
    loader._iterator = None


def _one_thread(_worker: int) -> None:
    """Workers are the parallelism: OpenCV's own pool in each of them would only fight over the cores."""
    cv2.setNumThreads(0)


def to_batch(raw: Sequence[Tensor], device: str | torch.device, mean: Sequence[float], std: Sequence[float]) -> Batch:
    """A raw batch on the device, normalised there: its images travel as bytes. mean, std (3,) are for RGB in [0, 1]."""
    image, label, position, *more = (part.to(device, non_blocking=True) for part in raw)
    layout = memory_layout(device)
    image = normalise(image.contiguous(memory_format=layout), mean, std)
    if len(more) == 2:
        strong = normalise(more[0].flatten(0, 1).contiguous(memory_format=layout), mean, std).reshape(more[0].shape)
        return Batch(image, label.long(), position.long(), strong=strong, valid=more[1])
    return Batch(image, label.long(), position.long(), *more)
