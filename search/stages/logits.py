"""The logits stage: writes every candidate's logits of val and hold-out, in every view."""

from __future__ import annotations

import itertools
import time
from collections.abc import Hashable, Sequence
from dataclasses import replace
from pathlib import Path

import ray

from search.cluster.ray_tasks import as_they_end, portable_errors, timed
from search.cluster.run_files import RunFiles
from search.run_dir import RunDir
from search.space.options import Options, Resources
from search.stages.folds import chosen_candidates, judged_split
from search.stages.stage import Context, Stage
from search.stages.task_log import TaskLog
from trainables.data.cache import Cache
from trainables.data.index import Split
from trainables.logits import write_logits as candidate_logits
from trainables.logits.latency import measure_costs
from trainables.logits.store import LogitStore
from trainables.logits.view import Tile, View
from trainables.logits.write_logits import Candidate
from trainables.worker_process import prepare_worker


def run(context: Context) -> None:
    """Write the logits of all candidates, one Ray task per candidate. One that fails is reported and left out.

    Raises ValueError where all fail.
    """
    folder, data, options = context.run, context.data, context.space.options
    chosen, split, views = chosen_candidates(context), judged_split(context), offered_views(options)
    kept = options.ensemble
    storage = candidate_logits.Storage(kept.logits, kept.max_logit_error, kept.logits_gb)
    folders = [folders_of(folder, c) for c in chosen]
    needed, free = candidate_logits.check_space(chosen, data.cache, split, views, folder.root, folders, storage)
    context.say(
        f"{len(chosen)} candidates x {len(views)} views: about {needed / 2**20:.0f} MiB of logits, "
        f"{free / 2**20:.0f} MiB free"
    )
    resources = options.resources
    num_gpus = min(1.0, resources.gpu)  # an image needs one device
    task = ray.remote(num_cpus=resources.cpu, num_gpus=num_gpus, max_retries=2)(timed(_write_one))
    cache = ray.put(data.cache)
    waiting = {task.remote(c, cache, split, views, context.files, storage, resources): c for c in chosen}
    failed: dict[str, str] = {}
    log, held = TaskLog(context, Stage.logits, len(chosen)), {"cpu": resources.cpu, "gpu": num_gpus}
    for candidate, lines, error in log.watch(as_they_end(waiting), lambda one: one.trial, lambda _: held):
        if error is None:
            for line in lines:
                context.say(line)
            context.say(f"logits of trial {candidate.trial} written ({candidate.recipe.backbone.name})")
        else:
            failed[candidate.trial] = error
            context.say(f"warning: trial {candidate.trial} is left out of the ensemble: {error}")
    if len(failed) == len(chosen):
        raise ValueError("no candidate's logits could be written: " + "; ".join(sorted(set(failed.values()))))


@portable_errors
def _write_one(
    candidate: Candidate,
    cache: Cache,
    split: Split,
    views: Sequence[View],
    files: RunFiles,
    storage: candidate_logits.Storage,
    resources: Resources,
) -> list[str]:
    """A Ray task: write all logits of one candidate and measure the cost of its views; returns messages."""
    prepare_worker(resources.cpu, min(1.0, resources.gpu))
    device = "cuda" if resources.gpu else "cpu"
    places = folders_of(files.run, candidate)
    with files.at_hand(candidate.files, tuple(places.values())) as at:
        here, folders = replace(candidate, checkpoint=at(candidate.checkpoint)), {p: at(f) for p, f in places.items()}
        said = candidate_logits.write_logits(here, cache, split, views, folders, storage, device=device)
        measure_costs(here, cache, split.val_ids, views, folders, device=device, clock=time.perf_counter)
    return said


def offered_views(options: Options) -> list[View]:
    """The views of `tta`, no two of the same pose. The plain view is always included, so that all members can be
    compared in it."""
    tta = options.tta
    tiles = [Tile(px, overlap) if px else None for px in tta.tiles_px for overlap in tta.overlaps]
    every = itertools.product(tta.scales, tiles, tta.turns, tta.flips)
    by_pose: dict[Hashable, View] = {}
    for view in [View(), *(View(scale, flip, turn, tile) for scale, tile, turn, flip in every)]:
        by_pose.setdefault(view.pose, view)
    return list(by_pose.values())


def folders_of(run: RunDir, candidate: Candidate) -> dict[candidate_logits.Part, Path]:
    """The folders of a candidate's logits."""
    return {part: run.logits(candidate.trial, part) for part in candidate.parts}


def has_logits(context: Context, candidate: Candidate) -> bool:
    """Whether all logits of a candidate are there: every image of val and hold-out in every view, by all its parts."""
    folders, split = folders_of(context.run, candidate), judged_split(context)
    return all(
        any(folders[part].glob("*.safetensors"))
        and all(
            LogitStore(folders[part]).has(view.name, candidate_logits.ids_of(split, part))
            for view in offered_views(context.space.options)
        )
        for part in candidate.parts
    )
