"""The noise stage: trains the best recipe again under other seeds, which tells which differences mean nothing.

Each repeat is a Ray task that trains on the images that trials train on, as a fold model is trained
(`trainables.fit_fold`): for a number of epochs fixed beforehand, resumed where it was cut off.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import ray

from analysis.search_quality import NoiseFloor
from search.cluster.ray_tasks import as_they_end, timed
from search.engine.admission import resources_of
from search.stages.candidates import scored_trials
from search.stages.folds import FoldPlan, fit_one, plan_folds
from search.stages.stage import Context, Stage
from search.stages.task_log import TaskLog
from trainables.files import write_text
from trainables.fit_fold import FoldJob

MEMBER = "noise"  # in place of a fold member's name


def run(context: Context) -> None:
    """Write noise.json. Raises ValueError where fewer than two repeats could be trained."""
    options, say = context.space.options, context.say
    if not options.search.noise_repeats:
        say("noise: off; with search.noise_repeats=3, the report would tell which differences are ties")
        return
    plan = plan_folds(context.run, options)[0]
    jobs = repeats(plan, context)
    hours = plan.epoch_s * plan.recipe.train.num_epochs * len(jobs) / 3600
    say(f"noise: trial {plan.trial.trial}'s recipe under {len(jobs)} seeds, about {hours:.2f} {plan.device}-hours")
    mious, failed = _train(jobs, context)
    if len(mious) < 2:
        raise ValueError(
            f"a noise floor needs at least two repeats, got {len(mious)} of {len(jobs)}: {'; '.join(sorted(failed))}; "
            "resume the run to try again, or start one with search.noise_repeats=0"
        )
    done = [job for job in jobs if job.fold in mious]
    floor = NoiseFloor(
        trial=plan.trial.trial,
        seeds=tuple(job.recipe.seed for job in done),
        mious=tuple(mious[job.fold] for job in done if job.fold is not None),
    )
    write_text(context.run.noise_json, floor.model_dump_json(indent=1) + "\n")
    say(f"noise: {floor.describe({trial.trial: trial.miou for trial in scored_trials(context.run)})}")


def repeats(plan: FoldPlan, context: Context) -> list[FoldJob]:
    """The plan's recipe on the run's own split, under seeds that follow from the run's."""
    split, options = context.data.split, context.space.options
    found = []
    for repeat in range(options.search.noise_repeats):
        seed = int(np.random.SeedSequence([options.seed, repeat]).generate_state(1)[0])
        recipe = plan.recipe.model_copy(update={"seed": seed})
        found.append(FoldJob(MEMBER, recipe, repeat, split, split.fingerprint))
    return found


def _train(jobs: Sequence[FoldJob], context: Context) -> tuple[dict[int | None, float], list[str]]:
    """The jobs' mIoU by repeat, and why others failed."""
    options = context.space.options
    held = resources_of(options.resources, jobs[0].recipe, context.data.index.num_classes)
    task = ray.remote(num_cpus=held["cpu"], num_gpus=held["gpu"], max_retries=options.search.max_failures)(
        timed(fit_one)
    )
    cache = ray.put(context.data.cache)
    waiting = {task.remote(job, cache, context.files, held["cpu"], held["gpu"]): job for job in jobs}
    mious: dict[int | None, float] = {}
    failed = []
    log = TaskLog(context, Stage.noise, len(jobs))
    for job, record, error in log.watch(as_they_end(waiting), lambda one: f"seed {one.recipe.seed}", lambda _: held):
        if error is None:
            mious[job.fold] = record.miou
            context.say(f"noise: seed {job.recipe.seed} scores mIoU {record.miou:.4f} on val")
        else:
            failed.append(f"seed {job.recipe.seed}: {error}")
            context.say(f"warning: a repeat is left out of the noise floor: {failed[-1]}")
    return mious, failed
