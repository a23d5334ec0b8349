"""Trains a stopped trial on to its end, from a copy of its last state; resumes where it was cut off.

The trial's own folder is only read. What it would have come to is all that is kept: its learning curve.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from pathlib import Path

from pydantic import ValidationError

from trainables.files import write_text
from trainables.recipe.config import Config
from trainables.training.attempt import EpochReport
from trainables.training.checkpoint import drop_older_epochs
from trainables.training.epoch import Diverged
from trainables.training.fit import fit
from trainables.training.trial import Trial

CURVE = "curve.json"  # beside a checkpoint's state, written last


class _Curve(Config):
    """curve.json: mIoU on val by epoch, of those after the stop."""

    mious: dict[int, float]


def train_on(
    trial: Trial, stopped: Path, *, num_ranks: int = 1, clock: Callable[[], float] = time.perf_counter
) -> dict[int, float]:
    """mIoU by epoch, of those from the checkpoint `stopped` to the recipe's last one, or to the one before it diverged.

    `trial.out_dir` holds checkpoints and the curve until the caller removes it; a later call goes on from there. Raises
    what `fit` raises, but Diverged.
    """
    newest = max(trial.out_dir.glob(f"epoch-*/{CURVE}"), default=None)
    mious = _read(newest) if newest else {}

    def keep(done: EpochReport) -> None:
        if not done.metrics["diverged"]:
            mious[done.epoch] = float(done.metrics["val/miou"])
            write_text(done.checkpoint_dir / CURVE, _Curve(mious=mious).model_dump_json() + "\n")
            drop_older_epochs(done.checkpoint_dir)

    with contextlib.suppress(Diverged):  # it ends there, as in the search: it came to what it scored before
        fit(trial, keep, resume_from=newest.parent if newest else stopped, num_ranks=num_ranks, clock=clock)
    return mious


def _read(path: Path) -> dict[int, float]:
    try:
        return _Curve.model_validate_json(path.read_bytes()).mious
    except (OSError, ValidationError) as error:
        raise ValueError(
            f"{path} must hold the epochs so far, got a broken file; remove {path.parent.parent}"
        ) from error
