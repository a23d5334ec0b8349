"""Features of a frozen backbone, computed once for each view of each training image and kept in memory.

With `augmentation.num_views` the draws of the first epochs come again, so that an image has so many views, whatever
changes its pixels, and what a backbone without gradients says of a view never changes. The head then learns from kept
features: neither images nor the backbone are read again. Numbers are those of a trial without this, but for rounding
where the backbone's depend on which images a batch holds.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Subset

from trainables.data.augment.train_set import Batch, Item, TrainSet, to_batch
from trainables.models.segmentor import Segmentor
from trainables.recipe.recipe import EomtHead, Recipe
from trainables.training.trial import Trial

GIB = 2**30


def is_kept(trial: Trial) -> bool:
    """Whether the trial learns from kept features. A student's or a self-trainer's batches hold more than images."""
    return keeps_features(trial.recipe) and trial.soft is None and trial.extra is None


def keeps_features(recipe: Recipe) -> bool:
    fixed = recipe.backbone.frozen and not isinstance(recipe.head, EomtHead)  # EoMT's queries change them
    return fixed and recipe.augmentation.num_views > 0


def check_size(recipe: Recipe, image_bytes: int, num_images: int) -> None:
    """ValueError where the features of all images, each of `image_bytes` in one view, exceed `train.cache_gb`."""
    num_views, most_gb = recipe.augmentation.num_views, recipe.train.cache_gb
    needed_gb = image_bytes * num_views * num_images / GIB
    if needed_gb > most_gb:
        raise ValueError(
            f"train.cache_gb must hold the features of {num_images} images in {num_views} views, {needed_gb:.2f} GiB, "
            f"got {most_gb:g}; use a larger one, fewer augmentation.num_views (0 keeps no features) or a smaller "
            "crop_px"
        )


@dataclass
class FeatureCache:
    """The batches that `loader` would give, their images as features."""

    model: Segmentor
    loader: DataLoader[Item]
    recipe: Recipe
    autocast: torch.dtype | None
    batch_size: int  # images that the backbone is given at once
    _kept: dict[tuple[int, int], tuple[tuple[Tensor, ...], Tensor]] = field(default_factory=dict)

    @property
    def dataset(self) -> TrainSet:
        assert isinstance(self.loader.dataset, TrainSet)
        return self.loader.dataset

    def __iter__(self) -> Iterator[Batch]:
        """Of the epoch that the dataset is set to. ValueError where the features exceed `train.cache_gb`."""
        device, view = next(self.model.parameters()).device, self.dataset.view
        batches: list[list[int]] = list(self.loader.batch_sampler or ())
        self._fill(view, [one for batch in batches for one in batch if (view, one) not in self._kept])
        for positions in batches:
            features, labels = zip(*(self._kept[view, one] for one in positions), strict=True)
            levels = tuple(_sent(torch.stack(level), device) for level in zip(*features, strict=True))
            label = _sent(torch.stack(labels), device).long()
            yield Batch(levels, label, _sent(torch.tensor(positions), device))

    @torch.no_grad()
    def _fill(self, view: int, positions: list[int]) -> None:
        device = next(self.model.parameters()).device
        start = 0
        for raw in self._loader(positions):
            batch = to_batch(raw, device, self.model.mean, self.model.std)
            assert isinstance(batch.image, Tensor)
            with torch.autocast(device.type, dtype=self.autocast, enabled=self.autocast is not None):
                features = self.model.backbone.read(batch.image)
            assert isinstance(features, list), "`is_kept` leaves out heads that go through the body's blocks"
            levels = [level.cpu() for level in features]
            for i, position in enumerate(positions[start : start + len(batch.label)]):
                self._kept[view, position] = tuple(level[i].clone() for level in levels), raw[1][i].clone()
            start += len(batch.label)
            check_size(self.recipe, sum(tensor[0].nbytes for tensor in (*levels, raw[1])), len(self.dataset))

    def _loader(self, positions: list[int]) -> DataLoader[Item]:
        few = len(positions) < self.recipe.train.batch_size  # what earlier epochs left out as their last, short batch
        return DataLoader(
            Subset(self.dataset, positions),
            batch_size=self.batch_size,
            num_workers=0 if few else self.loader.num_workers,
            generator=torch.Generator().manual_seed(self.dataset.seed),  # see `train_loader`
        )


def _sent(tensor: Tensor, device: torch.device) -> Tensor:
    """On the device; from pinned memory, or the copy to a GPU would wait for all that the GPU has still to do."""
    return (tensor.pin_memory() if device.type == "cuda" else tensor).to(device, non_blocking=True)
