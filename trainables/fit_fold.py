"""Trains one recipe on all folds but one, or on all of them, for a number of epochs fixed beforehand; resumes where it
was cut off.

The last epoch's weights are kept, whatever any epoch scored on the fold: that fold's images are to be predicted as if
they were new. A job is done when its weights file is there; a JSON file beside it says what it was trained on.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from trainables.data.cache import Cache
from trainables.data.index import Split
from trainables.files import write_text
from trainables.models.weights_file import REFIT_WEIGHTS, fold_weights
from trainables.recipe.config import Config
from trainables.recipe.recipe import Recipe
from trainables.training.attempt import EpochReport
from trainables.training.checkpoint import about_best, drop_older_epochs, newest_epoch, read_snapshot, snapshots
from trainables.training.fit import fit
from trainables.training.trial import Trial


@dataclass(frozen=True)
class FoldJob:
    """One recipe and the fold that it shall never see; a refit sees them all."""

    member: str  # the name of the recipe's fold models together
    recipe: Recipe  # its train.num_epochs are those that this takes
    fold: int | None  # None: the refit
    split: Split  # `train`: the other folds; `val`: this one, empty of a refit
    run_split: str  # fingerprint of the run's split, which the folds were dealt from

    @property
    def weights_name(self) -> str:
        return REFIT_WEIGHTS if self.fold is None else fold_weights(self.fold)

    @property
    def part(self) -> str:
        """'fold 1' or 'refit'."""
        return "refit" if self.fold is None else f"fold {self.fold}"


class FoldRecord(Config):
    """fold-<k>.json or refit.json: what the weights are, and what they were trained on."""

    recipe: Recipe
    classes: tuple[str, ...]
    miou: float | None  # on the fold; None of a refit
    epoch: int  # the last
    data_fingerprint: str
    split_fingerprint: str  # of the run's split
    train_ids: tuple[str, ...]


def read_done(job: FoldJob, folder: Path) -> FoldRecord | None:
    """What is known of the job's weights in `folder`; None where they are not there, or are another job's."""
    weights = folder / job.weights_name
    if not weights.is_file():
        return None
    try:
        record = FoldRecord.model_validate_json(weights.with_suffix(".json").read_bytes())
    except (OSError, ValidationError):
        return None  # it is trained again
    same = record.recipe == job.recipe and record.train_ids == job.split.train_ids
    return record if same and record.split_fingerprint == job.run_split else None


def fit_fold(
    job: FoldJob,
    cache: Cache,
    folder: Path,
    *,
    device: str,
    num_ranks: int = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> FoldRecord:
    """Write the job's weights and the JSON file that describes them into `folder`, unless they are there.

    Until then, checkpoints lie in a folder of the weights' stem, and a later call goes on from the last. Raises what
    `fit` raises.
    """
    weights, work = folder / job.weights_name, _work_dir(job, folder)
    done = read_done(job, folder)
    if done is None:
        weights.unlink(missing_ok=True)
        trial = Trial(job.recipe, cache, job.split, work, device, snapshots=1)
        fit(trial, _keep_newest, resume_from=newest_epoch(work), num_ranks=num_ranks, clock=clock)
        done = _take_last(job, cache, work, weights)
    drop_checkpoints(job, folder)
    return done


def files_of_fold(job: FoldJob, folder: Path) -> tuple[Path, ...]:
    """What `fit_fold` reads and writes: the weights, what describes them, and the folder of checkpoints."""
    weights = folder / job.weights_name
    return weights, weights.with_suffix(".json"), _work_dir(job, folder)


def drop_checkpoints(job: FoldJob, folder: Path) -> None:
    """Remove the checkpoints of a fold that is done; a process that ended between the two has left them."""
    shutil.rmtree(_work_dir(job, folder), ignore_errors=True)


def _work_dir(job: FoldJob, folder: Path) -> Path:
    return (folder / job.weights_name).with_suffix("")


def _take_last(job: FoldJob, cache: Cache, work: Path, weights: Path) -> FoldRecord:
    """Move the last epoch's weights to their place, once what describes them is there."""
    [last] = snapshots(work)
    epoch, miou = read_snapshot(last)
    assert epoch == job.recipe.train.num_epochs, "the last snapshot is the last epoch's"
    about = about_best(job.recipe, cache.index, job.split, miou=miou, epoch=epoch)
    about |= {"split_fingerprint": job.run_split, "train_ids": job.split.train_ids}
    about["miou"] = miou if job.split.val_ids else None
    record = FoldRecord.model_validate(about)
    write_text(weights.with_suffix(".json"), json.dumps(record.model_dump(mode="json"), indent=1) + "\n")
    last.replace(weights)
    return record


def _keep_newest(done: EpochReport) -> None:
    if not done.metrics["diverged"]:  # what diverged left no state to go on from
        drop_older_epochs(done.checkpoint_dir)
