"""Extra images have their share of every batch, all of them before any comes again."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import pytest

from trainables.data.augment.train_set import EpochBatches, ExtraImages, TrainSet
from trainables.ranks import ALONE, Ranks


class Lengths:
    """A dataset of which the sampler sees the number of images and the epoch."""

    def __init__(self, count: int) -> None:
        self.count, self.epoch = count, 0

    def __len__(self) -> int:
        return self.count


def batches(extra: ExtraImages, epoch: int, *, own: int = 12, ranks: Ranks = ALONE) -> list[list[int]]:
    data: Any = Lengths(own + extra.count)
    data.epoch = epoch
    sampler = EpochBatches(cast(TrainSet, data), 4, 0, ranks, extra)
    found = list(sampler)
    assert len(found) == len(sampler)
    return found


def test_an_epoch_has_every_own_image_once_and_its_share_of_extra_ones() -> None:
    extra = ExtraImages(count=10, share=0.5)
    drawn: list[int] = []
    for epoch in range(5):
        found = batches(extra, epoch)
        assert len(found) == 6
        assert sorted(n for batch in found for n in batch if n < 12) == list(range(12))
        assert all(sum(n >= 12 for n in batch) == 2 for batch in found)
        drawn += [n for batch in found for n in batch if n >= 12]
    for start in range(0, 60, 10):  # whole rounds of the ten, over the borders of epochs
        assert sorted(drawn[start : start + 10]) == list(range(12, 22))
    assert batches(extra, 3) == batches(extra, 3)
    assert batches(extra, 3) != batches(extra, 4)


@pytest.mark.parametrize(("share", "added"), [(0.0, 1), (0.25, 1), (0.5, 2), (1.0, 3)])
def test_a_batch_has_both_kinds_whatever_the_share(share: float, added: int) -> None:
    extra = ExtraImages(3, share)
    assert extra.of_batch(4) == added
    assert extra.num_batches(15, 4) == 12 // (4 - added)


def test_ranks_share_the_batches_of_one() -> None:
    extra = ExtraImages(10, 0.5)
    shares = [batches(extra, 1, ranks=Ranks(rank, 2)) for rank in range(2)]
    for whole, first, second in zip(batches(extra, 1), *shares, strict=True):
        assert whole == np.array([first, second]).T.ravel().tolist()


def test_a_batch_of_one_image_is_refused() -> None:
    with pytest.raises(ValueError, match="must have two at least, got 1"):
        ExtraImages(3, 0.5).of_batch(1)
