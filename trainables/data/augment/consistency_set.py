"""The train set of a trial that learns from its own predictions: extra images are shown weakly augmented, and twice
strongly."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from trainables.data.augment.crop import Pixels
from trainables.data.augment.pipeline import reseed, strong_transform, weak_transform
from trainables.data.augment.train_set import ExtraImages, Item, TrainSet
from trainables.data.cache import Cache
from trainables.data.index import IGNORE_INDEX
from trainables.recipe.augmentation import Augmentation

NUM_STRONG = 2  # views


class ConsistencySet(TrainSet):
    """Own images come as in a `TrainSet`. An extra one has no label; its strong views have its own pixels in other
    colours."""

    def __init__(
        self, cache: Cache, ids: Sequence[str], augmentation: Augmentation, seed: int, extra: ExtraImages
    ) -> None:
        super().__init__(cache, ids, augmentation, seed, extra=extra)
        self._weak, self._strong = weak_transform(augmentation, seed), strong_transform(seed)

    def __getitem__(self, position: int) -> Item:
        """image, label, position, strong views (2,3,h,w) uint8, the pixels (h,w) bool that an unlabelled image has."""
        if position < self.num_own:
            image, label, drawn, *_ = super().__getitem__(position)
            return image, label, drawn, torch.zeros(NUM_STRONG, *image.shape, dtype=torch.uint8), label < 0
        source = self.cache.image(self.ids[position])
        reseed(self._weak, self.seed, self.view, position)
        weak = self._weak(image=source, mask=np.zeros(source.shape[:2], np.uint8))
        views = []
        for view in range(NUM_STRONG):
            reseed(self._strong, self.seed, self.view, position, view + 1)
            views.append(_as_tensor(self._strong(image=weak["image"])["image"]))
        valid = torch.from_numpy(weak["mask"] != IGNORE_INDEX)
        label = torch.full(valid.shape, IGNORE_INDEX, dtype=torch.int64)
        return _as_tensor(weak["image"]), label, position, torch.stack(views), valid


def _as_tensor(image: Pixels) -> Tensor:  # (h,w,3) -> (3,h,w)
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
