"""One attempt at a trial: epoch after epoch, to the last one or until a batch does not fit the device.

The first rank reports every epoch, with a folder that holds `state.pt` (to resume) and the best epoch's weights.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from trainables.data.augment.consistency_set import ConsistencySet
from trainables.data.augment.pipeline import write_pipeline
from trainables.data.augment.train_set import TrainSet, stop_workers, train_loader
from trainables.device import autocast_dtype, float32_products
from trainables.logits.predict_views import Inference
from trainables.models.lora import merged_weights
from trainables.ranks import ALONE, Ranks
from trainables.training.checkpoint import (
    about_best,
    epoch_dir,
    keep_last,
    save_best,
    save_snapshot,
    save_state,
    take_weights,
)
from trainables.training.epoch import Diverged, train_epoch
from trainables.training.feature_cache import FeatureCache, is_kept
from trainables.training.losses import SegmentationLoss
from trainables.training.state import TrainingState, prepare, steps_of
from trainables.training.trial import Trial
from trainables.training.validate import Scores, no_scores, validate
from trainables.worker_process import is_out_of_memory

AUGMENTATION_JSON = "augmentation.json"  # the resolved pipeline, in albumentations' own serialisation


@dataclass(frozen=True)
class EpochReport:
    """A finished epoch. Whoever gets it owns `checkpoint_dir` and moves or removes it."""

    epoch: int
    metrics: dict[str, Any]
    checkpoint_dir: Path


Report = Callable[[EpochReport], None]


class OutOfMemory(RuntimeError):
    """The device's memory does not hold the trial."""


class DoesNotFit(RuntimeError):
    """A batch in `accumulate` micro-batches does not fit the device's memory."""

    def __init__(self, accumulate: int, reason: str) -> None:
        super().__init__(accumulate, reason)  # both, so that it can be sent to another process
        self.accumulate, self.reason = accumulate, reason


def attempt(
    trial: Trial,
    report: Report,
    *,
    accumulate: int,
    resume_from: Path | None,
    clock: Callable[[], float],
    ranks: Ranks = ALONE,
) -> dict[str, Any]:
    """Train to the last epoch and return its metrics. Raises DoesNotFit, OutOfMemory where no smaller micro-batch
    would help, and Diverged, on all ranks or on one."""
    state: TrainingState | None = None
    if trial.device.startswith("cuda"):
        torch.cuda.init()  # type: ignore[no-untyped-call]  # before that torch knows no device by its number
        torch.cuda.reset_peak_memory_stats(trial.device)  # an earlier trial's, where a worker is used again
    autocast = autocast_dtype(trial.recipe.train.amp, trial.device)
    try:
        state, loss = prepare(trial, autocast, resume_from=resume_from, accumulate=accumulate, ranks=ranks)
        if ranks.is_first:
            take_weights(resume_from, trial.out_dir)  # those there may be another trial's: a worker uses folders again
        with float32_products(trial.recipe.train.amp):
            return _epochs(trial, state, loss, report, autocast, clock)
    except Exception as error:
        if isinstance(error, OutOfMemory) or not is_out_of_memory(error):
            raise
        raise DoesNotFit(state.accumulate if state else accumulate, str(error)) from error


def _epochs(
    trial: Trial,
    state: TrainingState,
    loss: SegmentationLoss,
    report: Report,
    autocast: torch.dtype | None,
    clock: Callable[[], float],
) -> dict[str, Any]:
    recipe, ranks = trial.recipe, state.ranks
    dataset = train_set(trial)
    num_workers = -(-recipe.train.num_workers // ranks.count)
    pinned = trial.device.startswith("cuda")
    batch_size = recipe.train.batch_size
    loader = train_loader(dataset, batch_size, num_workers, state.epoch, ranks, trial.extra, pinned=pinned)
    assert len(loader) == steps_of(trial), "the schedule must know how many batches there are"
    micro_batch = max(1, batch_size // (state.accumulate * ranks.count))
    batches = FeatureCache(state.model, loader, recipe, autocast, micro_batch) if is_kept(trial) else loader
    try:
        while state.epoch < recipe.train.num_epochs:
            dataset.set_epoch(state.epoch)
            if not ranks.is_first:  # its own dropout masks; the first rank's states are in the checkpoint
                torch.manual_seed(_seed_of(recipe.seed, state.epoch, ranks.rank))
            state.metrics = {}  # those of a diverged epoch must not be the last one's
            state.metrics = train_epoch(state, batches, loss, recipe, autocast=autocast, clock=clock)
            _validate(state, loss, trial)
            if ranks.is_first:
                folder = epoch_dir(trial.out_dir, state.epoch)
                save_state(folder, state.capture())
                write_pipeline(dataset.transform, folder / AUGMENTATION_JSON)
                keep_last(folder, trial.out_dir)
                report(EpochReport(state.epoch, dict(state.metrics), folder))
    except Diverged:
        if ranks.is_first:
            _report_diverged(state, trial.cache.index.num_classes, trial.out_dir, report)
        raise
    finally:
        stop_workers(loader)
    return state.metrics


def train_set(trial: Trial) -> TrainSet:
    """The images of a trial, as its epochs see them."""
    cache, ids, aug, seed = trial.cache, trial.split.train_ids, trial.recipe.augmentation, trial.recipe.seed
    if trial.consistency is None:
        return TrainSet(cache, ids, aug, seed, trial.soft, trial.extra)
    assert trial.extra is not None, "what a trial says of extra images needs some"
    return ConsistencySet(cache, ids, aug, seed, trial.extra)


def _seed_of(*numbers: int) -> int:
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


def _validate(state: TrainingState, loss: SegmentationLoss, trial: Trial) -> None:
    """Score the epoch that was just trained, count it, and keep its weights: the best so far, the last ones."""
    recipe, ranks = trial.recipe, state.ranks
    batch_size = max(1, recipe.train.batch_size // (state.accumulate * ranks.count))
    inference = Inference.of(recipe, state.evaluated, trial.device, batch_size)
    ids = trial.split.val_ids
    scores = _scores(inference, loss, trial, ranks) if ids else no_scores(trial.cache.index.num_classes)
    if ids and not np.isfinite(scores.loss):
        raise Diverged(f"the validation loss was {scores.loss} after epoch {state.epoch + 1}")
    state.epoch += 1
    if scores.miou > state.best_miou:
        state.best_miou, state.best_epoch = scores.miou, state.epoch
    if ranks.is_first:
        _write_weights(state, trial, scores.miou)
    state.metrics |= {"val/loss": scores.loss, "val/miou": scores.miou, "val/iou": scores.iou, "diverged": 0}
    state.metrics |= {"epoch": state.epoch, "best/miou": state.best_miou, "best/epoch": state.best_epoch}
    state.metrics["accumulate"] = state.accumulate
    if trial.device.startswith("cuda"):
        state.metrics["peak_gb"] = torch.cuda.max_memory_allocated(trial.device) / 2**30


def _scores(inference: Inference, loss: SegmentationLoss, trial: Trial, ranks: Ranks) -> Scores:
    """Validation goes down to one image at a time by itself: smaller micro-batches of training would not help it."""
    try:
        return validate(inference, loss, trial.cache, trial.split.val_ids, ranks)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise OutOfMemory(
            f"{trial.device} ran out of memory on one image of val beside the trial's state, with backbone "
            f"{trial.recipe.backbone.name} and augmentation.short_px {trial.recipe.augmentation.short_px}; use a "
            f"smaller short_px or a smaller backbone ({str(error).partition(chr(10))[0]})"
        ) from error


def _write_weights(state: TrainingState, trial: Trial, miou: float) -> None:
    """The weights of the epoch that was just scored, as the best ones where they are, and as a snapshot."""
    weights = merged_weights(state.evaluated)
    if state.best_epoch == state.epoch:
        about = about_best(trial.recipe, trial.cache.index, trial.split, miou=state.best_miou, epoch=state.best_epoch)
        save_best(trial.out_dir, weights, about)
    if trial.snapshots:
        save_snapshot(trial.out_dir, weights, epoch=state.epoch, miou=miou, keep=trial.snapshots)


def _report_diverged(state: TrainingState, num_classes: int, out_dir: Path, report: Report) -> None:
    nan = float("nan")
    state.epoch += 1
    metrics = {"train/loss": nan, "lr": nan, "images_per_s": nan, "val/loss": nan, **state.metrics}
    metrics |= {"val/miou": 0.0, "val/iou": [0.0] * num_classes, "epoch": state.epoch, "diverged": 1}
    metrics |= {"best/miou": max(state.best_miou, 0.0), "best/epoch": state.best_epoch}
    metrics["accumulate"] = state.accumulate
    report(EpochReport(state.epoch, metrics, epoch_dir(out_dir, state.epoch)))
