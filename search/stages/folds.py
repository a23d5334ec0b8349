"""The folds stage: trains the best recipes once per fold of all labelled images outside the hold-out, and on all of
them (the refit).

Each is a Ray task that writes fold-<k>.safetensors or refit.safetensors under folds/<member>/, see
`trainables.fit_fold`. The next stages take the members from there, and every such image has logits of a model that
never saw it. A recipe whose refit fails stays a member with the mean of its fold models.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import ray

from search.cluster.nodes import live_nodes, num_holders
from search.cluster.ray_tasks import in_turn, portable_errors, timed
from search.cluster.run_files import RunFiles
from search.engine.admission import resources_of
from search.engine.study_file import open_study
from search.observers.trial_row import TrialRow, study_rows
from search.run_dir import RunDir
from search.space.options import Options
from search.stages.candidates import choose, competitors, scored_trials
from search.stages.stage import Context, Stage
from search.stages.task_log import TaskLog
from trainables.data.cache import Cache
from trainables.data.index import Split
from trainables.data.splits.folds import Folds, deal_folds, read_folds, write_folds
from trainables.data.splits.make_split import decode_facts
from trainables.fit_fold import FoldJob, FoldRecord, drop_checkpoints, files_of_fold, fit_fold, read_done
from trainables.logits.write_logits import Candidate
from trainables.recipe.recipe import Recipe
from trainables.worker_process import prepare_worker

OFFERED = 5  # folds, in what is said where they are off


@dataclass(frozen=True)
class FoldPlan:
    """A trial of the search whose recipe is trained once per fold, for as many epochs as it took to its best one."""

    trial: Candidate
    recipe: Recipe  # the trial's, with that number of epochs
    epoch_s: float  # device-seconds that an epoch of the trial took
    device: str  # what `epoch_s` counts

    @property
    def member(self) -> str:
        return f"folds-{self.trial.trial}"


def run(context: Context) -> None:
    """Train the fold models. A recipe of which one fails is reported and left out; ValueError where all are."""
    run_dir, data, options = context.run, context.data, context.space.options
    plans = plan_folds(run_dir, options)
    if not options.folds.num:
        context.say(offer(plans, data.split))
        return
    folds = _folds_of(context)
    for note in folds.notes:
        context.say(f"folds: {note}")
    context.say(announce(plans, folds.num, data.split, refit=options.folds.refit))
    jobs = [job for plan in plans for job in _jobs(plan, folds, context)]
    undone = []
    for job in jobs:
        if read_done(job, run_dir.fold_models(job.member)) is None:
            undone.append(job)
        else:
            drop_checkpoints(job, run_dir.fold_models(job.member))
    if len(undone) < len(jobs):
        context.say(f"folds: {len(jobs) - len(undone)} of {len(jobs)} models were trained before")
    failed = _train(undone, context)
    members = fold_members(context)
    if not members:
        raise ValueError(
            f"folds need at least one recipe that trains on all of them, got none of {len(plans)}: "
            + "; ".join(f"{member}: {reason}" for member, reason in sorted(failed.items()))
        )
    context.say(f"folds: {len(members)} members, rules are fitted on {folds.num_images} images out of fold")


def _train(jobs: Sequence[FoldJob], context: Context) -> dict[str, str]:
    """Run the jobs as Ray tasks; returns why members failed. Jobs of such a member that wait are dropped."""
    data, options = context.data, context.space.options
    cache = ray.put(data.cache)
    held = {job: resources_of(options.resources, job.recipe, data.index.num_classes) for job in jobs}
    room = max((num_holders(wanted, live_nodes()) for wanted in held.values()), default=0)
    failed: dict[str, str] = {}

    def start(job: FoldJob) -> Any:
        cpu, gpu = held[job]["cpu"], held[job]["gpu"]
        task = ray.remote(num_cpus=cpu, num_gpus=gpu, max_retries=options.search.max_failures)(timed(fit_one))
        return task.remote(job, cache, context.files, cpu, gpu)

    ends = in_turn((job for job in jobs if job.member not in failed), start, room)
    log = TaskLog(context, Stage.folds, len(jobs))
    for job, record, error in log.watch(ends, lambda one: f"{one.member} {one.part}", held.__getitem__):
        if error is None:
            scored = "" if record.miou is None else f"mIoU {record.miou:.4f} on its {len(job.split.val_ids)} images, "
            context.say(f"{job.member} {job.part}: {scored}{record.epoch} epochs on {len(job.split.train_ids)} images")
        elif job.fold is None and options.folds.ship == "mean":
            context.say(f"warning: {job.member} stays without a refit, which failed: {error}")
        elif job.member not in failed:
            failed[job.member] = f"{job.part}: {error}"
            context.say(f"warning: {job.member} is left out of the ensemble: its {job.part} failed: {error}")
    return failed


@portable_errors
def fit_one(job: FoldJob, cache: Cache, files: RunFiles, cpu: float, gpu: float) -> FoldRecord:
    """A Ray task: train one recipe on all folds but one, or on all."""
    prepare_worker(cpu, gpu)
    device, num_ranks, folder = "cuda" if gpu else "cpu", max(1, int(gpu)), files.run.fold_models(job.member)
    with files.at_hand((), files_of_fold(job, folder)) as at:
        return fit_fold(job, cache, at(folder), device=device, num_ranks=num_ranks)


def plan_folds(run_dir: RunDir, options: Options) -> list[FoldPlan]:
    """The best recipes by their trials' scores, at most `ensemble.max_per_family` of one backbone family. Raises
    ValueError where no trial ended with a checkpoint."""
    rows = {row.trial: row for row in study_rows(open_study(run_dir.study_db), run_dir.root)}
    limits = {"limit": options.folds.recipes, "max_per_family": options.ensemble.max_per_family}
    return [_plan(trial, rows[trial.trial]) for trial in choose(scored_trials(run_dir), **limits)]


def _plan(trial: Candidate, row: TrialRow) -> FoldPlan:
    assert row.best_epoch, "a trial with a score has an epoch that it is of"
    train = trial.recipe.train.model_copy(update={"num_epochs": row.best_epoch})
    recipe = trial.recipe.model_copy(update={"train": train})
    return FoldPlan(trial, recipe, row.device_s / max(1, row.epochs), row.device)


def _jobs(plan: FoldPlan, folds: Folds, context: Context) -> list[FoldJob]:
    """One per fold, and the refit where it is wanted."""
    index, split = context.data.index, context.data.split
    wanted = [*range(folds.num), *([None] if context.space.options.folds.refit else [])]
    return [
        FoldJob(plan.member, plan.recipe, fold, folds.split_of(fold, index, split), split.fingerprint)
        for fold in wanted
    ]


def forecast_h(plans: Sequence[FoldPlan], num_folds: int, split: Split, *, refit: bool = True) -> float:
    """Device-hours of all fold models, by what the trials' epochs took and the number of images: each image outside
    the hold-out is trained on in all folds but one, and in the refit."""
    images = (num_folds - 1 + refit) * (len(split.train_ids) + len(split.val_ids)) / len(split.train_ids)
    return sum(plan.epoch_s * plan.recipe.train.num_epochs for plan in plans) * images / 3600


def announce(plans: Sequence[FoldPlan], num_folds: int, split: Split, *, refit: bool) -> str:
    """What is about to be trained, and how long that may take."""
    named = ", ".join(f"{plan.trial.trial} ({plan.recipe.train.num_epochs} epochs)" for plan in plans)
    hours = forecast_h(plans, num_folds, split, refit=refit)
    once_more = " and a refit" if refit else ""
    return (
        f"folds: {len(plans)} recipes x {num_folds} folds{once_more}, "
        f"about {hours:.2f} {plans[0].device.upper()}-hours: {named}"
    )


def offer(plans: Sequence[FoldPlan], split: Split) -> str:
    """What folds would give and cost, where they are off."""
    num_open = len(split.train_ids) + len(split.val_ids)
    return (
        f"folds: off; with folds.num={OFFERED}, rules would be fitted on {num_open} images instead of "
        f"{len(split.val_ids)} and members be means of {OFFERED} models, for about "
        f"{forecast_h(plans, OFFERED, split):.2f} {plans[0].device.upper()}-hours of training"
    )


def _folds_of(context: Context) -> Folds:
    """The run's folds: those of folds.json, or dealt now and written there."""
    path, data, options = context.run.folds_json, context.data, context.space.options
    if not path.exists():
        known = decode_facts(data.index, data.cache)
        write_folds(path, deal_folds(data.index, data.split, options.folds.num, seed=options.seed, known=known))
    return read_folds(path, data.split)


def fold_members(context: Context) -> list[Candidate]:
    """The recipes of which every fold's model is there, and the refit where that ships, best first."""
    folds, found = _folds_of(context), []
    needed = {*range(folds.num), *([None] if context.space.options.folds.ship == "refit" else [])}
    for plan in plan_folds(context.run, context.space.options):
        folder = context.run.fold_models(plan.member)
        done = {job.fold for job in _jobs(plan, folds, context) if read_done(job, folder)}
        if done >= needed:
            names = tuple(f"{plan.trial.trial} fold {fold}" for fold in range(folds.num))
            mean = Candidate(plan.member, plan.recipe, folder, plan.trial.miou, names, folds.folds)
            found.append(replace(mean, refit=None in done, ships_refit=None in needed))
    return found


def chosen_candidates(context: Context) -> list[Candidate]:
    """The candidates of the ensemble: the means of fold models where folds are on, else trials and soups. Raises
    ValueError where no trial ended with a checkpoint."""
    options = context.space.options
    return fold_members(context) if options.folds.num else competitors(context.run, options.ensemble)


def judged_split(context: Context) -> Split:
    """The images that rules are fitted on, as `val`, and those that they are judged on: with folds, all labelled ones
    outside the hold-out are fitted on."""
    index, split = context.data.index, context.data.split
    if not context.space.options.folds.num:
        return split
    known = {*split.train_ids, *split.val_ids}
    every = tuple(image.image_id for image in index.images if image.image_id in known)
    return replace(split, train_ids=(), val_ids=every)
