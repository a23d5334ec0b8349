"""Trains a student: one recipe on labelled images and on what a teacher says of them and of others; resumes where it
was cut off.

Where there are images to validate on, the best epoch's weights are kept, else the last one's. A student is done when
best.safetensors is there; best.json beside it says what it was trained on, and by which teacher.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import ValidationError

from trainables.data.augment.train_set import ExtraImages
from trainables.data.cache import Cache
from trainables.data.index import Split
from trainables.files import write_text
from trainables.models.weights_file import BEST_JSON, BEST_WEIGHTS
from trainables.recipe.config import Config
from trainables.recipe.recipe import Recipe
from trainables.training.attempt import EpochReport
from trainables.training.checkpoint import about_best, drop_older_epochs, newest_epoch, read_snapshot, snapshots
from trainables.training.distillation import SoftLabels
from trainables.training.fit import fit
from trainables.training.self_training import Consistency
from trainables.training.trial import Trial

Say = Callable[[str], None]


@dataclass(frozen=True)
class StudentJob:
    """A recipe, its images, and what its teacher says of them."""

    recipe: Recipe
    split: Split  # train: labelled and unlabelled images; val may be empty
    unlabelled: tuple[str, ...]  # of train: those whose labels are the teacher's alone
    teacher: str  # fingerprint of the teacher, and of how it is heard
    soft: SoftLabels | None = None
    extra: ExtraImages | None = None
    consistency: Consistency | None = None  # in place of labels of the unlabelled images
    start_from: Path | None = None  # weights to begin with


class StudentRecord(Config):
    """best.json of a student."""

    recipe: Recipe
    classes: tuple[str, ...]
    miou: float | None  # on val; None where there is none
    epoch: int  # whose weights were kept
    data_fingerprint: str
    split_fingerprint: str
    train_ids: tuple[str, ...]
    unlabelled_ids: tuple[str, ...]  # of train_ids
    teacher: str  # fingerprint, as the job has it


def read_student(job: StudentJob, folder: Path) -> StudentRecord | None:
    """What is known of the job's weights in `folder`; None where they are not there, or are another job's."""
    if not (folder / BEST_WEIGHTS).is_file():
        return None
    try:
        record = StudentRecord.model_validate_json((folder / BEST_JSON).read_bytes())
    except (OSError, ValidationError):
        return None  # it is trained again
    same = record.recipe == job.recipe and record.train_ids == job.split.train_ids
    return record if same and record.teacher == job.teacher else None


def fit_student(
    job: StudentJob,
    cache: Cache,
    folder: Path,
    *,
    device: str,
    num_ranks: int = 1,
    say: Say = print,
    clock: Callable[[], float] = time.perf_counter,
) -> StudentRecord:
    """Write the student's weights and what describes them into `folder`, unless they are there.

    Until then, checkpoints lie in folder/training, and a later call goes on from the last. Raises what `fit` raises.
    """
    work = folder / "training"
    done = read_student(job, folder)
    if done is None:
        (folder / BEST_WEIGHTS).unlink(missing_ok=True)
        kept = 0 if job.split.val_ids else 1
        trial = Trial(job.recipe, cache, job.split, work, device, snapshots=kept, soft=job.soft)
        trial = replace(trial, extra=job.extra, consistency=job.consistency, start_from=job.start_from)

        def report(epoch: EpochReport) -> None:
            say(_line(epoch, job.recipe.train.num_epochs))
            if not epoch.metrics["diverged"]:  # what diverged left no state to go on from
                drop_older_epochs(epoch.checkpoint_dir)

        fit(trial, report, resume_from=newest_epoch(work), num_ranks=num_ranks, clock=clock)
        done = _take(job, cache, work, folder)
    shutil.rmtree(work, ignore_errors=True)
    return done


def _line(done: EpochReport, num_epochs: int) -> str:
    metrics = done.metrics
    val = "" if metrics["val/miou"] != metrics["val/miou"] else f", val mIoU {metrics['val/miou']:.4f}"
    return f"epoch {done.epoch} of {num_epochs}: loss {metrics['train/loss']:.4f}{val}"


def _take(job: StudentJob, cache: Cache, work: Path, folder: Path) -> StudentRecord:
    """Move the weights that are kept to their place, once what describes them is there."""
    if job.split.val_ids:
        weights, about = work / BEST_WEIGHTS, json.loads((work / BEST_JSON).read_text(encoding="utf-8"))
    else:
        [weights] = snapshots(work)
        epoch, miou = read_snapshot(weights)
        about = about_best(job.recipe, cache.index, job.split, miou=miou, epoch=epoch) | {"miou": None}
    about |= {"train_ids": job.split.train_ids, "unlabelled_ids": job.unlabelled, "teacher": job.teacher}
    record = StudentRecord.model_validate(about)
    write_text(folder / BEST_JSON, json.dumps(record.model_dump(mode="json"), indent=1) + "\n")
    weights.replace(folder / BEST_WEIGHTS)
    return record
