"""One pass over the training set: its updates, mean loss and speed."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from trainables.data.augment.train_set import Batch, Item, to_batch
from trainables.ranks import Ranks
from trainables.recipe.recipe import Recipe
from trainables.training.distillation import known_pixels
from trainables.training.feature_cache import FeatureCache
from trainables.training.losses import SegmentationLoss
from trainables.training.state import TrainingState

_GPU_CHECK_EVERY = 16  # updates between checks of the loss on a GPU, where each check waits for the queue to drain


class Diverged(RuntimeError):
    """A trial's loss is no longer finite: nothing can be learnt from here on."""


def train_epoch(
    state: TrainingState,
    loader: DataLoader[Item] | FeatureCache,
    loss: SegmentationLoss,
    recipe: Recipe,
    *,
    autocast: torch.dtype | None,
    clock: Callable[[], float],
) -> dict[str, Any]:
    """Make one update per batch; Diverged as soon as a loss is seen that is not finite (within 16 updates on a GPU).

    All ranks see the same loss, so they go on or stop together; `loader` gives each its share.
    """
    model, ranks = state.model.train(), state.ranks
    device = next(model.parameters()).device
    check_every = 1 if device.type == "cpu" else _GPU_CHECK_EVERY
    total = torch.zeros((), dtype=torch.float64, device=device)
    start_s, lr, num_images, num_batches = clock(), 0.0, 0, 0
    for num_batches, raw in enumerate(loader, start=1):
        batch = raw if isinstance(raw, Batch) else to_batch(raw, device, model.mean, model.std)
        lr = max(group["lr"] for group in state.optimizer.param_groups)
        total += update(state, batch, loss, recipe, autocast)
        num_images += len(batch.label)
        if num_batches % check_every == 0 and not torch.isfinite(ranks.sum(total.clone())):
            break
    mean = float(ranks.sum(total)) / num_batches
    if not math.isfinite(mean):
        raise Diverged(f"the training loss was {mean} in epoch {state.epoch + 1}, update {state.num_updates}")
    return {"train/loss": mean, "lr": lr, "images_per_s": ranks.count * num_images / max(clock() - start_s, 1e-9)}


def update(
    state: TrainingState, batch: Batch, loss: SegmentationLoss, recipe: Recipe, autocast: torch.dtype | None
) -> Tensor:
    """One optimiser step on one batch, of which `batch` is this rank's share; the share's part of the loss, detached.

    The gradients of `accumulate` micro-batches, and of ranks, sum to the whole batch's, but for what a batch norm (of
    a micro-batch, over all ranks) or a loss over classes (of a rank's micro-batch) takes from its part alone.
    """
    parts, ranks = state.accumulate, state.ranks
    state.model.anneal(state.num_updates / state.planned_updates)
    divided = parts * ranks.count > 1
    whole = ranks.sum(loss.weight(batch.label)) if divided else None
    more = _beyond_labels(batch, parts, ranks if divided else None)
    total = torch.zeros((), device=batch.label.device)
    for left, image, label, taught in zip(
        range(parts - 1, -1, -1), _parts_of(batch.image, parts), batch.label.chunk(parts), more, strict=True
    ):
        apart = getattr(state.step, "no_sync", contextlib.nullcontext) if left else contextlib.nullcontext
        with apart():  # ranks exchange gradients once, with the last part's
            with torch.autocast(label.device.type, dtype=autocast, enabled=autocast is not None):
                part = state.step(image, label, whole, *taught)
            state.scaler.scale(part * ranks.count).backward()  # type: ignore[no-untyped-call]  # ranks average
        total += part.detach()
    if recipe.optimizer.clip_norm is not None:
        state.scaler.unscale_(state.optimizer)
        torch.nn.utils.clip_grad_norm_(state.model.parameters(), recipe.optimizer.clip_norm)
    state.scaler.step(state.optimizer)
    state.scaler.update()
    state.optimizer.zero_grad(set_to_none=True)
    state.num_updates += 1
    state.schedule.step_update(state.num_updates)
    if state.ema is not None:
        state.ema.update(state.model, step=state.num_updates)
    return total


def _parts_of(image: Tensor | tuple[Tensor, ...], parts: int) -> Sequence[Tensor | tuple[Tensor, ...]]:
    if isinstance(image, Tensor):
        return image.chunk(parts)
    return list(zip(*(level.chunk(parts) for level in image), strict=True))


def _beyond_labels(batch: Batch, parts: int, ranks: Ranks | None) -> list[tuple[Tensor | None, ...]]:
    """What a student's step, or that of consistency, takes of each micro-batch beyond a trial's, with the number of
    pixels that this is the mean of in the whole batch; the step counts them itself where there is one part of it
    alone (`ranks` None)."""
    if batch.soft is not None:
        known = None if ranks is None else ranks.sum(known_pixels(batch.soft))
        return [(part, known) for part in batch.soft.chunk(parts)]
    if batch.strong is not None and batch.valid is not None:
        count = None if ranks is None else ranks.sum(batch.valid.sum().float())
        views = zip(batch.strong.chunk(parts), batch.valid.chunk(parts), strict=True)
        return [(strong, valid, count) for strong, valid in views]
    return [()] * parts
