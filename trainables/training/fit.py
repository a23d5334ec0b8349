"""Trains one recipe on one split, without Ray.

Every epoch is reported with a folder that holds `state.pt` (to resume) and the best epoch's weights.

Equal recipes give equal numbers, bit for bit on a CPU with the same number of threads, resumed or not. On a GPU the
bilinear upsampling's backward pass adds in no fixed order; torch's deterministic mode is slower there, and left to the
caller, as is the number of threads. What `trainables.device` sets of precision and algorithms, it sets back.
"""

from __future__ import annotations

import gc
import logging
import shutil
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from trainables.recipe.recipe import Recipe
from trainables.training.attempt import DoesNotFit, EpochReport, OutOfMemory, Report, attempt
from trainables.training.batch import check_batch
from trainables.training.checkpoint import LAST
from trainables.training.epoch import Diverged
from trainables.training.launch_ranks import attempt_on_ranks
from trainables.training.trial import Trial

__all__ = ["Diverged", "EpochReport", "OutOfMemory", "Trial", "fit"]


def fit(
    trial: Trial,
    report: Report,
    *,
    resume_from: Path | None = None,
    num_ranks: int = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Any]:
    """Train to the last epoch and return its metrics; `report` is called after each.

    A batch that does not fit the device is split into more micro-batches, and the epoch starts again from the last
    state. `num_ranks` processes share each batch, on as many devices (see `training.launch_ranks`). The evaluated
    weights of the trial's last `snapshots` epochs lie beside the best ones, as ingredients of a soup.

    Metrics: train/loss, val/loss, val/miou and val/iou (K, NaN for an absent class) of the EMA weights where there are
    any, lr, images_per_s (of training), epoch, best/miou, best/epoch, diverged, accumulate (micro-batches per batch),
    and on a GPU peak_gb (memory held at most, GiB, on the first). A trial whose loss is not finite reports diverged 1
    with val/miou 0.0, without a state.pt, and raises Diverged. Without images to validate on, which only a trial with
    snapshots may lack, no epoch is the best one, and the scores of val are NaN.

    Raises OutOfMemory where a single image does not fit, in training or validation, and ValueError for a batch larger
    than the train split or not divisible by the ranks and micro-batches, an empty split, or a `resume_from` that is
    another trial's.
    """
    _check(trial, num_ranks)
    trial.out_dir.mkdir(parents=True, exist_ok=True)
    last = trial.out_dir / LAST
    shutil.rmtree(last, ignore_errors=True)  # another trial's, where a worker uses one folder again
    train: Callable[..., dict[str, Any]] = (
        partial(attempt, clock=clock) if num_ranks == 1 else partial(attempt_on_ranks, num_ranks=num_ranks)
    )
    parts, start = trial.recipe.train.accumulate, resume_from
    try:
        while True:
            try:
                return train(trial, report, accumulate=parts, resume_from=start)
            except DoesNotFit as error:
                parts, reason = error.accumulate, error.reason  # the error itself holds the frames that fill the device
            _release(trial.device)
            parts = _more_parts(trial.recipe, num_ranks, parts, reason, trial.device)
            start = last if last.exists() else resume_from
    finally:
        shutil.rmtree(last, ignore_errors=True)


def _check(trial: Trial, num_ranks: int) -> None:
    recipe, split = trial.recipe, trial.split
    recipe.augmentation.check_sizes([trial.cache.size(image_id) for image_id in split.train_ids])
    check_batch(recipe.train, len(split.train_ids), num_ranks)
    if not split.val_ids and not trial.snapshots:
        raise ValueError("a trial needs images to validate on, got an empty val split; give `val` or carve one")


def _more_parts(recipe: Recipe, num_ranks: int, parts: int, reason: str, device: str) -> int:
    """The next number of micro-batches after `parts`: twice as many where that divides a rank's share of a batch."""
    share = recipe.train.batch_size // num_ranks
    more = [n for n in range(parts + 1, share + 1) if share % n == 0]
    if not more:
        raise OutOfMemory(
            f"{device} ran out of memory with batch_size {recipe.train.batch_size} in {parts} micro-batches on "
            f"{num_ranks} device(s), crop_px {recipe.augmentation.crop_px} and backbone {recipe.backbone.name}; use "
            f"train.grad_checkpointing, a smaller crop_px or a smaller backbone ({reason.partition(chr(10))[0]})"
        )
    chosen = 2 * parts if 2 * parts in more else more[0]
    logging.getLogger(__name__).warning(
        "a batch of %d in %d micro-batches does not fit %s; continuing with %d", share, parts, device, chosen
    )
    return chosen


def _release(device: str) -> None:
    gc.collect()
    if device.startswith("cuda"):
        torch.cuda.empty_cache()
