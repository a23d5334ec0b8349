"""Trains trials that early stopping ended on to their end, to see what it lost (`segsearch audit --train-on`).

Those are drawn at random, so that they speak for all that were stopped. Each is a Ray task that goes on from the
trial's last checkpoint; what it came to joins audit.json, and no trial of the search changes.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import ray
from optuna.trial import TrialState

from search.cluster.nodes import live_nodes, num_holders
from search.cluster.ray_tasks import in_turn, portable_errors
from search.cluster.run_files import RunFiles
from search.engine.admission import resources_of
from search.engine.study_audit import TrainedOn, read_trained_on
from search.engine.study_file import open_study
from search.observers.trial_row import TrialRow, row_of
from search.stages.stage import Context
from trainables.data.cache import Cache
from trainables.data.index import Split
from trainables.files import write_text
from trainables.recipe.recipe import Recipe
from trainables.train_on import train_on
from trainables.training.trial import Trial
from trainables.worker_process import prepare_worker

DRAW = 1  # of the run's seed, for the order in which stopped trials are drawn


@dataclass(frozen=True)
class Stopped:
    """A trial that early stopping ended, and where it can go on from."""

    trial: str
    recipe: Recipe
    epochs: int  # that it ran
    epoch_s: float  # device-seconds of each
    checkpoint: Path

    @property
    def left_s(self) -> float:
        """About how many device-seconds it has left."""
        return self.epoch_s * (self.recipe.train.num_epochs - self.epochs)


def run(context: Context, num_trials: int) -> None:
    """Train on the first `num_trials` of the stopped trials, in an order that the run's seed draws, but for those of
    audit.json, which it then has too. Raises ValueError where no trial was stopped, or one could not be trained on."""
    drawn = in_random_order(context)[:num_trials]
    known = read_trained_on(context.run)
    left = [one for one in drawn if one.trial not in known.mious]
    if not left:
        context.say(f"the {len(drawn)} stopped trials that were drawn were trained on before")
        return
    hours = sum(one.left_s for one in left) / 3600
    context.say(f"training on {', '.join(one.trial for one in left)}: about {hours:.2f} device-hours")
    failed = _train(left, known, context)
    if failed:
        raise ValueError(
            f"every stopped trial that was drawn must be trained on, got {len(failed)} of {len(left)} that were not: "
            f"{'; '.join(failed)}; mend that and give the command again, which goes on with them"
        )


def in_random_order(context: Context) -> list[Stopped]:
    """The stopped trials whose checkpoint is there. Raises ValueError where there is none."""
    study = open_study(context.run.study_db)
    rows = [
        row_of(frozen, study.user_attrs, context.run.root)
        for frozen in study.get_trials(deepcopy=False, states=(TrialState.PRUNED,))
        if "identity" in frozen.user_attrs
    ]
    found = [_stopped(row) for row in rows if row.checkpoint and Path(row.checkpoint).is_dir()]
    if not found:
        raise ValueError(
            f"--train-on needs a trial that early stopping ended, with its checkpoint, got none in {context.run.root} "
            f"({len(rows)} stopped); leave it out"
        )
    rng = np.random.default_rng(np.random.SeedSequence([context.space.options.seed, DRAW]))
    return [found[place] for place in rng.permutation(len(found))]


def _stopped(row: TrialRow) -> Stopped:
    recipe = Recipe.model_validate(row.recipe)
    return Stopped(row.trial, recipe, row.epochs, row.device_s / max(1, row.epochs), Path(str(row.checkpoint)))


def _train(stopped: list[Stopped], known: TrainedOn, context: Context) -> list[str]:
    """Run the trials as Ray tasks and add each to audit.json as it ends; why others failed."""
    options, data = context.space.options, context.data
    cache, mious, failed = ray.put(data.cache), dict(known.mious), list[str]()
    held = {one: resources_of(options.resources, one.recipe, data.index.num_classes) for one in stopped}
    room = max(num_holders(wanted, live_nodes()) for wanted in held.values())

    def start(one: Stopped) -> Any:
        cpu, gpu = held[one]["cpu"], held[one]["gpu"]
        task = ray.remote(num_cpus=cpu, num_gpus=gpu, max_retries=options.search.max_failures)(go_on)
        return task.remote(one, cache, data.split, context.files, cpu, gpu)

    for one, more, error in in_turn(stopped, start, room):
        if error is not None:
            failed.append(f"trial {one.trial}: {error}")
            continue
        mious[one.trial] = more
        write_text(context.run.audit_json, TrainedOn(mious=mious).model_dump_json(indent=1) + "\n")
        shutil.rmtree(context.run.audit / one.trial, ignore_errors=True)
        came_to = f"mIoU {max(more.values()):.4f} at best" if more else "nothing: it diverged at once"
        context.say(f"trial {one.trial}, stopped after epoch {one.epochs}, then came to {came_to}")
    return failed


@portable_errors
def go_on(one: Stopped, cache: Cache, split: Split, files: RunFiles, cpu: float, gpu: float) -> dict[int, float]:
    """A Ray task: train one stopped trial on; epoch -> mIoU."""
    prepare_worker(cpu, gpu)
    folder = files.run.audit / one.trial
    with files.at_hand([one.checkpoint], [folder]) as at:
        trial = Trial(one.recipe, cache, split, at(folder), "cuda" if gpu else "cpu")
        return train_on(trial, at(one.checkpoint), num_ranks=max(1, int(gpu)))
