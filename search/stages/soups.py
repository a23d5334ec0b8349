"""The soup stage: plans which checkpoints are averaged, and makes each soup in a Ray task.

A soup is a folder under soups/, see `trainables.training.soup`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, TypeVar

import ray
from pydantic import ValidationError

from search.cluster.ray_tasks import as_they_end, portable_errors
from search.cluster.run_files import RunFiles
from search.space.options import Options, Resources
from search.stages.candidates import choose_of, scored_trials
from search.stages.stage import Context
from trainables.data.cache import Cache
from trainables.data.index import Split
from trainables.logits.write_logits import Candidate
from trainables.models.weights_file import BEST_JSON, BEST_WEIGHTS, load_weights, weight_shapes
from trainables.plain_json import read_object
from trainables.recipe.recipe import Recipe
from trainables.training.checkpoint import read_snapshot, snapshots
from trainables.training.soup import Ingredient, Plan, Soup, make_soup
from trainables.worker_process import prepare_worker

REMEDY = "restore the checkpoint's folder, or start a new run"

MAX_TRIALS = 8  # of one architecture that are tried together, the best ones: each but the first needs a validation

Say = Callable[[str], None]
Kind = Literal["epochs", "all"]
Found = TypeVar("Found")


def run(context: Context) -> None:
    """Average the weights of the chosen trials' epochs and of similar trials, as further candidates."""
    folder, data, options = context.run, context.data, context.space.options
    if options.folds.num:
        context.say("soups: none where folds are on, whose members are the candidates")
        return
    trials = scored_trials(folder)
    chosen = choose_of(trials, options.ensemble)
    make_soups(trials, chosen, data.cache, data.split, context.files, options, context.say)


def make_soups(
    trials: Sequence[Candidate],
    chosen: Sequence[Candidate],
    cache: Cache,
    split: Split,
    files: RunFiles,
    options: Options,
    say: Say,
) -> None:
    """Make all planned soups. Those of an earlier session are kept; one that fails is reported and left out."""
    if options.ensemble.soups == "off":
        say("soups: off")
        return
    plans = plan_soups(trials, chosen, options.ensemble.soups, say)
    validations = sum(len(plan.ingredients) - 1 for plan in plans)
    needed = sum(plan.ingredients[0].weights.stat().st_size for plan in plans)
    say(f"{len(plans)} soups, {validations} validations, at most {needed / 2**20:.0f} MiB of weights")
    make_planned(make_one, plans, cache, split, files, options.resources, say)


def make_planned(
    make: Callable[[Plan, Cache, Split, RunFiles, Resources], Soup],
    plans: Sequence[Plan],
    cache: Cache,
    split: Split,
    files: RunFiles,
    resources: Resources,
    say: Say,
) -> None:
    """Run `make` for each plan as a Ray task; a plan whose task fails is reported and left out."""
    num_gpus = min(1.0, resources.gpu)  # an image needs one device
    task = ray.remote(num_cpus=resources.cpu, num_gpus=num_gpus, max_retries=2)(make)
    shared = ray.put(cache)
    waiting = {task.remote(plan, shared, split, files, resources): plan for plan in plans}
    for plan, soup, error in as_they_end(waiting):
        say(str(soup) if error is None else f"warning: {plan.name} is left out: {error}")


@portable_errors
def make_one(plan: Plan, cache: Cache, split: Split, files: RunFiles, resources: Resources) -> Soup:
    """A Ray task: make one soup."""
    prepare_worker(resources.cpu, min(1.0, resources.gpu))
    folder, reads = files.run.soups / plan.name, [one.weights for one in plan.ingredients]
    with files.at_hand(reads, [folder]) as at:
        device = "cuda" if resources.gpu else "cpu"
        return make_soup(plan, cache, split, at(folder), device=device, read=lambda path: load_weights(at(path)))


def plan_soups(trials: Sequence[Candidate], chosen: Sequence[Candidate], kind: Kind, say: Say) -> list[Plan]:
    """A soup of the epochs of each chosen trial and, where `kind` is "all", of trials with the architecture of one.

    A trial whose files cannot be read is reported and left out.
    """
    plans = []
    for candidate in chosen:
        found = _read(epochs_of, candidate, say)
        if found is not None and len(found) > 1:
            plans.append(Plan(f"soup-{candidate.trial}", candidate.recipe, found))
    return plans if kind == "epochs" else [*plans, *_of_trials(trials, chosen, say)]


def _of_trials(trials: Sequence[Candidate], chosen: Sequence[Candidate], say: Say) -> list[Plan]:
    starts = {start_of(candidate.recipe) for candidate in chosen} - {None}
    alike: dict[tuple[object, ...], list[tuple[Candidate, Ingredient]]] = {}
    for candidate in trials:
        if start_of(candidate.recipe) in starts:
            found = _read(architecture_and_best, candidate, say)
            if found is not None:
                alike.setdefault(found[0], []).append((candidate, found[1]))
    plans = []
    for group in alike.values():
        group.sort(key=lambda pair: (-pair[1].miou, pair[0].trial))
        best, names = group[0][0], {candidate.trial for candidate, _ in group}
        if len(group) > 1 and any(candidate.trial in names for candidate in chosen):
            ingredients = tuple(ingredient for _, ingredient in group[:MAX_TRIALS])
            plans.append(Plan(f"soup-trials-{best.trial}", best.recipe, ingredients))
    return plans


def _read(read: Callable[[Candidate], Found], candidate: Candidate, say: Say) -> Found | None:
    try:
        return read(candidate)
    except (ValueError, OSError, KeyError) as error:
        say(f"warning: trial {candidate.trial} is left out of soups: {error}")
        return None


def start_of(recipe: Recipe) -> tuple[str, ...] | None:
    """The pretrained weights that a network started from; None from scratch.

    Averaging trials only helps if they stay in one loss basin, as trials from the same pretrained weights do
    (Neyshabur et al. 2020, sec. 3.4); trials from random weights do not.
    """
    backbone = recipe.backbone
    return (backbone.name, backbone.weights_file or "", recipe.head.name) if backbone.pretrained else None


def architecture_and_best(candidate: Candidate) -> tuple[tuple[object, ...], Ingredient]:
    """A candidate's pretrained start (which fixes the normalisation of images) with names and shapes of all tensors,
    and its best epoch."""
    best = best_of(candidate)
    return (start_of(candidate.recipe), *sorted(weight_shapes(best.weights).items())), best


def best_of(candidate: Candidate) -> Ingredient:
    """The best epoch of a trial."""
    path, weights = candidate.checkpoint / BEST_JSON, candidate.checkpoint / BEST_WEIGHTS
    about = read_object(path, REMEDY)
    try:
        return Ingredient(trial=candidate.trial, epoch=about["epoch"], miou=about["miou"], weights=weights)
    except (KeyError, ValidationError) as error:
        raise ValueError(f"{path} must have the epoch and the mIoU of its weights, got {error}; {REMEDY}") from error


def epochs_of(candidate: Candidate) -> tuple[Ingredient, ...]:
    """The best epoch of a trial, then its last ones, by their mIoU on val."""
    best = best_of(candidate)
    last = [(path, *read_snapshot(path)) for path in snapshots(candidate.checkpoint)]
    others = [
        Ingredient(trial=candidate.trial, epoch=epoch, miou=miou, weights=path)
        for path, epoch, miou in last
        if epoch != best.epoch
    ]
    return (best, *sorted(others, key=lambda one: (-one.miou, -one.epoch)))
