"""The training of a student of pseudo labels, by its schedule."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from search.students.finished_run import with_epochs
from search.students.pseudo_labelling import Labelled, Trained
from search.students.pseudo_plans import StudentPlan
from search.students.pseudo_steps import Setting
from trainables.data.augment.train_set import ExtraImages
from trainables.data.label_overlay import LabelOverlay
from trainables.device import placed
from trainables.fit_student import StudentJob, fit_student
from trainables.logits.predict_views import Inference, at_label_size, view_logits
from trainables.logits.view import View
from trainables.metrics import confusion
from trainables.models.load import load_model
from trainables.models.weights_file import BEST_WEIGHTS
from trainables.recipe.recipe import Recipe
from trainables.training.self_training import Consistency

ITSELF = "the student itself"
Counts = NDArray[np.int64]


def count_network(
    setting: Setting, *, recipe: Recipe, weights: Path, ids: Sequence[str]
) -> Counts:  # (N,K,K), in the order of ids
    """Counts of one network in its plain view."""
    data, device = setting.finished.context.data, setting.device
    model = placed(load_model(recipe, data.index.num_classes, weights), device)
    inference = Inference.of(recipe, model, device, recipe.train.batch_size, data.index.flip_pairs)
    found: dict[str, Counts] = {}
    for image_id, logits in view_logits(inference, data.cache, ids, View()):
        label = data.cache.label(image_id)
        full = at_label_size(torch.from_numpy(logits)[None], label.shape)  # (1,K,H,W)
        called = full[0].argmax(0).numpy().astype(np.uint8)
        found[image_id] = confusion(label, called, data.index.num_classes, data.index.ignore_index)
    return np.stack([found[image_id] for image_id in ids])


def train_consistent(setting: Setting, plan: StudentPlan, share: float, place: Path) -> Trained:
    """Train the recipe anew in `place`, with its own predictions of the unlabelled images in place of labels."""
    finished, options = setting.finished, setting.options
    extra = finished.unlabelled
    recipe, _ = with_epochs(plan.plain.recipe, options.epochs)
    job = StudentJob(
        recipe,
        replace(plan.split, train_ids=(*plan.split.train_ids, *extra)),
        extra,
        ITSELF,
        extra=ExtraImages(len(extra), share),
        consistency=Consistency(options.confidence, options.consistency_weight),
    )
    cache = LabelOverlay(finished.context.data.cache, dict.fromkeys(extra))
    return _trained(setting, job, cache, place)


def train_student(setting: Setting, plan: StudentPlan, labelled: Labelled, share: float, place: Path) -> Trained:
    """Train the plan's student in `place` by its schedule."""
    options, labels = setting.options, labelled.labels
    extra = tuple(one.image_id for one in labels.labels)
    files: dict[str, Path | None] = dict(labels.files(labelled.folder))
    recipe, _ = with_epochs(plan.plain.recipe, options.epochs)
    mixed = StudentJob(
        recipe,
        replace(plan.split, train_ids=(*plan.split.train_ids, *extra)),
        extra,
        labels.fingerprint,
        extra=ExtraImages(len(extra), share),
    )
    if options.schedule != "scratch":
        gentle = recipe.optimizer.model_copy(update={"lr": recipe.optimizer.lr * options.lr_factor})
        recipe = recipe.model_copy(update={"optimizer": gentle})
        mixed = replace(mixed, recipe=recipe, start_from=plan.plain.weights)
    jobs = {"student": mixed}
    if options.schedule == "continue_then_real":
        real = StudentJob(recipe, plan.split, (), labels.fingerprint, start_from=place / "mixed" / BEST_WEIGHTS)
        jobs = {"mixed": mixed, "student": real}
    cache = LabelOverlay(setting.finished.context.data.cache, files)
    return [_trained(setting, job, cache, place / name) for name, job in jobs.items()][-1]


def _trained(setting: Setting, job: StudentJob, cache: LabelOverlay, place: Path) -> Trained:
    say = setting.finished.context.say
    say(f"{place.name}: {len(job.split.train_ids)} images, {len(job.unlabelled)} of them unlabelled")
    return Trained(fit_student(job, cache, place, device=setting.device, num_ranks=setting.ranks, say=say), place)
