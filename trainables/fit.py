"""Train one recipe on one split; no Ray here.

Enters: a recipe, the cache and a split. Leaves: a report an epoch, whose folder holds `state.pt` (to resume) and the
best epoch's weights. From the shell:

    python -m trainables.fit --recipe recipe.json --data data.yaml --out DIR [--device cuda] [--resume DIR/epoch-0003]

Equal recipes give equal numbers, bit for bit on a CPU with the same number of threads, resumed or not. On a GPU the
bilinear upsampling's backward pass adds in no fixed order; torch's deterministic mode is slower there, and left to the
caller, as is the number of threads.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from trainables.checkpoint import (
    BEST_JSON,
    BEST_WEIGHTS,
    epoch_dir,
    link_best,
    save_state,
    save_weights,
    write_atomically,
)
from trainables.data.cache import Cache
from trainables.data.card import read_card
from trainables.data.coco import read
from trainables.data.dataset import TrainSet, stop_workers, train_loader
from trainables.data.index import Split
from trainables.data.splits import make_split
from trainables.data.transforms import write_pipeline
from trainables.epoch import Diverged, train_epoch
from trainables.infer import autocast_dtype
from trainables.losses import SegmentationLoss
from trainables.recipe import Recipe
from trainables.training_state import TrainingState, prepare, steps_per_epoch
from trainables.validate import validate

AUGMENTATION_JSON = "augmentation.json"  # the resolved pipeline, in albumentations' own serialisation

__all__ = ["Diverged", "EpochReport", "OutOfMemory", "fit"]


class OutOfMemory(RuntimeError):
    """The device's memory does not hold the trial."""


@dataclass(frozen=True)
class EpochReport:
    """A finished epoch. Whoever gets it owns `checkpoint_dir` and moves or removes it."""

    epoch: int
    metrics: dict[str, Any]
    checkpoint_dir: Path


def fit(
    recipe: Recipe,
    cache: Cache,
    split: Split,
    *,
    out_dir: Path,
    device: str,
    report: Callable[[EpochReport], None],
    resume_from: Path | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Any]:
    """Train to the last epoch and return its metrics; `report` is called after each.

    Metrics: train/loss, val/loss, val/miou and val/iou (K, NaN for an absent class) of the EMA weights where there
    are any, lr, images_per_s (of training), epoch, best/miou, best/epoch, diverged. A trial whose loss is not finite
    reports diverged 1 with val/miou 0.0, without a state.pt, and raises Diverged. Raises OutOfMemory, and ValueError
    for a batch larger than the train split, an empty split, or a `resume_from` that is another trial's.
    """
    _check(recipe, cache, split)
    out_dir.mkdir(parents=True, exist_ok=True)
    autocast = autocast_dtype(recipe.train.amp, device)
    try:
        state, loss = prepare(recipe, cache, split, device=device, autocast=autocast, resume_from=resume_from)
        if resume_from is not None and state.best_epoch:
            link_best(resume_from, out_dir)
        else:  # another trial's, where a worker uses one folder again
            (out_dir / BEST_WEIGHTS).unlink(missing_ok=True)
            (out_dir / BEST_JSON).unlink(missing_ok=True)
        dataset = TrainSet(cache, split.train_ids, recipe.augmentation, recipe.seed)
        loader = train_loader(dataset, recipe.train.batch_size, recipe.train.num_workers, recipe.seed, state.epoch)
        assert len(loader) == steps_per_epoch(recipe, split), "the schedule must know how many batches there are"
        try:
            while state.epoch < recipe.train.num_epochs:
                dataset.set_epoch(state.epoch)
                state.metrics = {}  # those of a diverged epoch must not be the last one's
                state.metrics = train_epoch(state, loader, loss, recipe, autocast=autocast, clock=clock)
                _validate(state, loss, recipe, cache, split, device, out_dir)
                folder = epoch_dir(out_dir, state.epoch)
                save_state(folder, state.capture())
                write_pipeline(dataset.transform, folder / AUGMENTATION_JSON)
                report(EpochReport(state.epoch, dict(state.metrics), folder))
        except Diverged:
            _report_diverged(state, cache.index.num_classes, out_dir, report)
            raise
        finally:
            stop_workers(loader)
    except torch.OutOfMemoryError as error:
        raise OutOfMemory(
            f"{device} ran out of memory with batch_size {recipe.train.batch_size} in {recipe.train.accumulate} parts,"
            f" crop_px {recipe.augmentation.crop_px} and backbone {recipe.backbone.name}; use a larger"
            " train.accumulate, a smaller crop_px or a smaller backbone"
        ) from error
    return state.metrics


def _check(recipe: Recipe, cache: Cache, split: Split) -> None:
    recipe.augmentation.check_sizes([cache.size(image_id) for image_id in split.train_ids])
    if recipe.train.batch_size > len(split.train_ids):
        raise ValueError(
            f"batch_size must not exceed the train split's images, got {recipe.train.batch_size} and "
            f"{len(split.train_ids)}; use at most {len(split.train_ids)}"
        )
    if not split.val_ids:
        raise ValueError("a trial needs images to validate on, got an empty val split; give `val` or carve one")


def _validate(
    state: TrainingState,
    loss: SegmentationLoss,
    recipe: Recipe,
    cache: Cache,
    split: Split,
    device: str,
    out_dir: Path,
) -> None:
    """Score the epoch that was just trained, count it, and keep its weights where they are the best so far."""
    scores = validate(
        state.evaluated,
        loss,
        cache,
        split.val_ids,
        short_px=recipe.augmentation.short_px,
        device=device,
        batch_size=recipe.train.batch_size,
        amp=recipe.train.amp,
    )
    if not np.isfinite(scores.loss):
        raise Diverged(f"the validation loss was {scores.loss} after epoch {state.epoch + 1}")
    state.epoch += 1
    if scores.miou > state.best_miou:
        state.best_miou, state.best_epoch = scores.miou, state.epoch
        _write_best(state, recipe, cache, split, out_dir)
    state.metrics |= {"val/loss": scores.loss, "val/miou": scores.miou, "val/iou": scores.iou, "diverged": 0}
    state.metrics |= {"epoch": state.epoch, "best/miou": state.best_miou, "best/epoch": state.best_epoch}


def _write_best(state: TrainingState, recipe: Recipe, cache: Cache, split: Split, out_dir: Path) -> None:
    about = {
        "recipe": recipe.model_dump(mode="json"),
        "classes": list(cache.index.classes),
        "miou": state.best_miou,
        "epoch": state.best_epoch,
        "data_fingerprint": cache.index.fingerprint,
        "split_fingerprint": split.fingerprint,
    }
    save_weights(out_dir / BEST_WEIGHTS, state.evaluated.state_dict())
    text = json.dumps(about, indent=1) + "\n"
    write_atomically(out_dir / BEST_JSON, partial(_write_text, text))


def _write_text(text: str, path: Path) -> None:
    path.write_text(text, encoding="utf-8")


def _report_diverged(
    state: TrainingState, num_classes: int, out_dir: Path, report: Callable[[EpochReport], None]
) -> None:
    nan = float("nan")
    state.epoch += 1
    metrics = {"train/loss": nan, "lr": nan, "images_per_s": nan, "val/loss": nan, **state.metrics}
    metrics |= {"val/miou": 0.0, "val/iou": [0.0] * num_classes, "epoch": state.epoch, "diverged": 1}
    metrics |= {"best/miou": max(state.best_miou, 0.0), "best/epoch": state.best_epoch}
    report(EpochReport(state.epoch, metrics, epoch_dir(out_dir, state.epoch)))


def main(argv: list[str] | None = None) -> int:
    """The command of the module's docstring; 2 after a user's mistake, 3 after a diverged trial, else 0."""
    parser = argparse.ArgumentParser(prog="python -m trainables.fit", description="Train one recipe on one data set.")
    parser.add_argument("--recipe", type=Path, required=True, help="JSON file of a recipe")
    parser.add_argument("--data", type=Path, required=True, help="data card (YAML)")
    parser.add_argument("--out", type=Path, required=True, help="folder for the cache and the checkpoints")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--resume", type=Path, help="an epoch's folder in --out")
    args = parser.parse_args(argv)
    try:
        recipe = Recipe.model_validate_json(args.recipe.read_bytes())
        index = read(read_card(args.data))
        split = make_split(index, seed=recipe.seed)
        cache = Cache.open(index, args.out / "cache")
        fit(
            recipe,
            cache,
            split,
            out_dir=args.out,
            device=args.device,
            report=_print_epoch,
            resume_from=args.resume,
        )
    except (ValueError, OSError, OutOfMemory) as error:  # pydantic's ValidationError is a ValueError
        print(f"error: {error}", file=sys.stderr)
        return 2
    except Diverged as error:
        print(f"diverged: {error}", file=sys.stderr)
        return 3
    return 0


def _print_epoch(done: EpochReport) -> None:
    """One line an epoch; of the checkpoints only the newest is kept."""
    m = done.metrics
    print(
        f"epoch {done.epoch:3d}  loss {m['train/loss']:.4f}  val {m['val/loss']:.4f}  mIoU {m['val/miou']:.4f}  "
        f"best {m['best/miou']:.4f} ({m['best/epoch']})  {m['images_per_s']:.1f} images/s",
        flush=True,
    )
    for older in done.checkpoint_dir.parent.glob("epoch-*"):
        if older.name < done.checkpoint_dir.name:
            shutil.rmtree(older)


if __name__ == "__main__":
    sys.exit(main())
