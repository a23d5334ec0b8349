"""Which batches a trial may have, checked before it takes a device and again before it trains. Imports no torch."""

from __future__ import annotations

from trainables.recipe.recipe import Train


def check_batch(train: Train, num_images: int, num_ranks: int) -> None:
    """Raises ValueError for a batch larger than the train split or not divisible by the ranks and micro-batches."""
    if train.batch_size > num_images:
        raise ValueError(
            f"batch_size must not exceed the train split's images, got {train.batch_size} and {num_images}; use at "
            f"most {num_images}"
        )
    unit = num_ranks * train.accumulate
    if num_ranks > 1 and train.batch_size % unit:
        raise ValueError(
            f"batch_size must be divisible by {num_ranks} GPUs x {train.accumulate} micro-batches, got "
            f"{train.batch_size}; use {max(1, train.batch_size // unit) * unit}, or another resources.gpu or "
            "train.accumulate"
        )
