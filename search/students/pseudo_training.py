"""The student of pseudo labels: the same recipe with and without them, and the schedules that it is trained by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from analysis.ensembling.pseudo_result import PseudoOptions
from analysis.pseudo_labels.lineage import PseudoLabels
from search.stages.bundle import weights_of
from search.stages.single_trial import BEST_SINGLE, with_trial_alone
from search.students.finished_run import FinishedRun, recipe_of, with_epochs
from trainables.data.augment.train_set import ExtraImages
from trainables.data.label_overlay import LabelOverlay
from trainables.fit_student import StudentJob, StudentRecord, fit_student
from trainables.logits.predict_views import Inference, at_label_size, view_logits
from trainables.logits.view import View
from trainables.metrics import confusion
from trainables.models.load import load_model
from trainables.models.weights_file import BEST_WEIGHTS
from trainables.recipe.recipe import Recipe
from trainables.training.self_training import Consistency

ITSELF = "the student itself"
FOLD_MEMBER = "folds-"  # before the name of the trial whose recipe its fold models have
Counts = NDArray[np.int64]


@dataclass(frozen=True)
class Plain:
    """A trial without pseudo labels: what its student has to beat, and may begin with."""

    trial: str
    recipe: Recipe
    weights: Path


@dataclass(frozen=True)
class Setting:
    """What every round of a command shares."""

    finished: FinishedRun
    options: PseudoOptions
    plain: Plain
    device: str
    ranks: int


def plain_of(finished: FinishedRun, options: PseudoOptions) -> Plain:
    """The best single model's trial, or the one that was asked for; with folds, the trial whose recipe they have.
    Raises ValueError where there is no such trial."""
    run, ensemble = finished.context.run, finished.ensemble
    weights = weights_of(run, ensemble)
    name = options.trial or ensemble.members[ensemble.rule(BEST_SINGLE).fitted.used[0]].trial
    name = name.removeprefix(FOLD_MEMBER)
    widened, alone, weights = with_trial_alone(run, ensemble, weights, name)
    trial = widened.members[alone.fitted.used[0]].trial
    [path] = weights[trial]
    return Plain(trial, recipe_of(path), path)


def count_network(
    finished: FinishedRun, recipe: Recipe, weights: Path, ids: Sequence[str], device: str
) -> Counts:  # (N,K,K), in the order of ids
    """Counts of one network in its plain view."""
    data = finished.context.data
    model = load_model(recipe, data.index.num_classes, weights).to(device)
    inference = Inference.of(recipe, model, device, recipe.train.batch_size, data.index.flip_pairs)
    found: dict[str, Counts] = {}
    for image_id, logits in view_logits(inference, data.cache, ids, View()):
        label = data.cache.label(image_id)
        full = at_label_size(torch.from_numpy(logits)[None], label.shape)  # (1,K,H,W)
        called = full[0].argmax(0).numpy().astype(np.uint8)
        found[image_id] = confusion(label, called, data.index.num_classes, data.index.ignore_index)
    return np.stack([found[image_id] for image_id in ids])


def train_consistent(setting: Setting, folder: Path) -> tuple[StudentRecord, Path]:
    """Train the recipe anew, with its own predictions of the unlabelled images in place of labels; returns what is
    known of its weights, and their folder."""
    finished, options = setting.finished, setting.options
    data, extra = finished.context.data, finished.unlabelled
    recipe, _ = with_epochs(setting.plain.recipe, options.epochs)
    job = StudentJob(
        recipe,
        replace(data.split, train_ids=(*data.split.train_ids, *extra)),
        extra,
        ITSELF,
        extra=ExtraImages(len(extra), options.share),
        consistency=Consistency(options.confidence, options.consistency_weight),
    )
    finished.context.say(f"consistency: {len(job.split.train_ids)} images, {len(extra)} without labels")
    cache = LabelOverlay(data.cache, dict.fromkeys(extra))
    say, place = finished.context.say, folder / "student"
    return fit_student(job, cache, place, device=setting.device, num_ranks=setting.ranks, say=say), place


def train_student(setting: Setting, labels: PseudoLabels, folder: Path) -> tuple[StudentRecord, Path]:
    """Train the student of one round by its schedule; returns what is known of its weights, and their folder."""
    finished, options = setting.finished, setting.options
    data = finished.context.data
    extra = tuple(one.image_id for one in labels.labels)
    files: dict[str, Path | None] = dict(labels.files(folder / "labels"))
    recipe, _ = with_epochs(setting.plain.recipe, options.epochs)
    mixed = StudentJob(
        recipe,
        replace(data.split, train_ids=(*data.split.train_ids, *extra)),
        extra,
        labels.fingerprint,
        extra=ExtraImages(len(extra), options.share),
    )
    if options.schedule != "scratch":
        gentle = recipe.optimizer.model_copy(update={"lr": recipe.optimizer.lr * options.lr_factor})
        recipe = recipe.model_copy(update={"optimizer": gentle})
        mixed = replace(mixed, recipe=recipe, start_from=setting.plain.weights)
    jobs = {"student": mixed}
    if options.schedule == "continue_then_real":
        real = StudentJob(recipe, data.split, (), labels.fingerprint, start_from=folder / "mixed" / BEST_WEIGHTS)
        jobs = {"mixed": mixed, "student": real}
    cache = LabelOverlay(data.cache, files)
    for name, job in jobs.items():
        finished.context.say(f"{name}: {len(job.split.train_ids)} images, {len(job.unlabelled)} with pseudo labels")
        record = fit_student(
            job, cache, folder / name, device=setting.device, num_ranks=setting.ranks, say=finished.context.say
        )
    return record, folder / "student"
