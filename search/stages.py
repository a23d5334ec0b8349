"""search -> soups -> logits -> ensemble with verdict -> bundle -> report; each resumable, each skipped when it is done.

Enters: a `Context` (run directory, space, data, cluster). Leaves: the files of the run directory. Stages hand each
other files; a stage is done when run.json says so, and it says so only after its last file was renamed into place.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import ray

from analysis import candidates as candidate_logits
from analysis.candidates import Candidate
from analysis.ensemble import EnsembleOptions, fit_ensemble
from analysis.export import BundleFacts, export
from analysis.latency import measure_costs
from search import reporting
from search.admission import Gate, cluster_gpu_gb, some_sizes
from search.callbacks import CsvTable
from search.competitors import choose_of, competitors, scored_trials
from search.options import Options
from search.progress import build_progress
from search.ray_tasks import as_they_end
from search.run_data import Data
from search.session import Stage
from search.soups import make_soups
from search.space import Space
from search.spread import RaySpread
from search.trackers import EventLog, build_trackers
from search.tuner import run_search
from search.workdir import RunDir, read_json, write_json
from trainables.data.cache import Cache
from trainables.data.index import Split
from trainables.infer import View
from trainables.logits import LogitStore
from trainables.segmentation import make_trainable, prepare_worker


@dataclass(frozen=True)
class Context:
    run: RunDir
    space: Space
    data: Data
    say: Callable[[str], None]
    now: Callable[[], datetime]


def run_all(context: Context, until: Stage = Stage.report) -> None:
    """Every stage that is not done yet, in order, up to `until`. Raises ValueError for what the user can mend."""
    stages: Mapping[Stage, Callable[[Context], None]] = {
        Stage.search: search,
        Stage.soups: soups,
        Stage.logits: write_logits,
        Stage.ensemble: ensemble,
        Stage.bundle: bundle,
        Stage.report: report,
    }
    ordered = list(Stage)
    for name in ordered[: ordered.index(until) + 1]:
        record = read_json(context.run.run_json)
        done = record["stages"].get(name)
        if done:
            context.say(f"{name}: done at {done}, skipped")
            continue
        context.say(f"== {name}")
        stages[name](context)
        record = read_json(context.run.run_json)
        record["stages"][name] = context.now().isoformat(timespec="seconds")
        write_json(context.run.run_json, record)


def search(context: Context) -> None:
    """Trials by TPE and ASHA; trials.csv, study.db, events.jsonl."""
    run, space, data, options = context.run, context.space, context.data, context.space.options

    def clock() -> float:
        return context.now().timestamp()

    observers = [
        CsvTable(path=run.trials_csv, classes=data.index.classes, clock=clock),
        EventLog(run.events, clock=clock),
        *build_trackers(options.trackers, run.root),
        build_progress(sys.stdout, clock=clock),
    ]
    gate = open_gate(context)
    snapshots = 0 if options.ensemble.soups == "off" else options.ensemble.soup_epochs
    if snapshots:
        context.say(f"for soups, a trial keeps its last {snapshots} epochs: {4 * snapshots} MB a million parameters")
    run_search(
        suggest=space.suggest,
        defaults=space.defaults(),
        options=options.search,
        resources_of=gate.resources_of,
        admit=gate.admit,
        trainable=make_trainable(data.index, data.split, data.cache_root, snapshots),
        study_path=run.study_db,
        tune_dir=run.tune,
        seed=options.seed,
        observers=observers,
        resume=run.study_db.exists(),
    )


def open_gate(context: Context) -> Gate:
    """What decides whether a recipe may take a device, and how many: by the data's sizes and the cluster's GPUs."""
    data, options = context.data, context.space.options
    sizes = [(record.height, record.width) for record in data.index.images]
    device_gb = options.resources.memory_gb or (cluster_gpu_gb() if options.resources.gpu else None)
    return Gate(options, data.index.num_classes, some_sizes(sizes), device_gb)


def soups(context: Context) -> None:
    """Means of weights, of the chosen trials' epochs and of trials alike, as further candidates."""
    run, data, options = context.run, context.data, context.space.options
    trials = scored_trials(run)
    chosen = choose_of(trials, options.ensemble)
    make_soups(trials, chosen, data.cache, data.split, run.soups, options, context.say)


def write_logits(context: Context) -> None:
    """The best trials look at val and hold-out once a view; a candidate that fails is left out and named."""
    run, data, options = context.run, context.data, context.space.options
    chosen, views = chosen_candidates(context), offered_views(options)
    kept = options.ensemble
    storage = candidate_logits.Storage(kept.logits, kept.max_logit_error, kept.logits_gb)
    folders = [folders_of(run, c) for c in chosen]
    needed, free = candidate_logits.check_space(chosen, data.cache, data.split, views, run.root, folders, storage)
    context.say(
        f"{len(chosen)} candidates x {len(views)} views: about {needed / 2**20:.0f} MiB of logits, "
        f"{free / 2**20:.0f} MiB free"
    )
    cpu, gpu = options.resources.cpu, min(1.0, options.resources.gpu)  # one device looks at an image
    task = ray.remote(num_cpus=cpu, num_gpus=gpu, max_retries=2)(_write_one)
    cache = ray.put(data.cache)
    waiting = {task.remote(c, cache, data.split, views, folders_of(run, c), storage, cpu, gpu): c for c in chosen}
    failed: dict[str, str] = {}
    for candidate, lines, error in as_they_end(waiting):
        if error is None:
            for line in lines:
                context.say(line)
            context.say(f"logits of trial {candidate.trial} written ({candidate.recipe.backbone.name})")
        else:
            failed[candidate.trial] = error
            context.say(f"warning: trial {candidate.trial} is left out of the ensemble: {error}")
    if len(failed) == len(chosen):
        raise ValueError("no candidate's logits could be written: " + "; ".join(sorted(set(failed.values()))))


def _write_one(
    candidate: Candidate,
    cache: Cache,
    split: Split,
    views: Sequence[View],
    folders: Mapping[candidate_logits.Part, Path],
    storage: candidate_logits.Storage,
    cpu: float,
    gpu: float,
) -> list[str]:
    """A Ray task: all logits of one candidate, and what its views cost. Leaves what there was to say."""
    prepare_worker(cpu)
    device = "cuda" if gpu else "cpu"
    said: list[str] = []
    candidate_logits.write_logits(candidate, cache, split, views, folders, storage, device=device, say=said.append)
    measure_costs(candidate, cache, split.val_ids, views, folders["val"], device=device, clock=time.perf_counter)
    return said


def ensemble(context: Context) -> None:
    """Fit every rule on val, cross-fitted; open the hold-out once; write ensemble.json."""
    run, data, options = context.run, context.data, context.space.options
    chosen = [c for c in chosen_candidates(context) if _has_logits(context, c)]
    val = [LogitStore(run.logits(c.trial, "val")) for c in chosen]
    fit_ensemble(
        val,
        [LogitStore(run.logits(c.trial, "holdout")) for c in chosen],
        data.cache,
        data.index,
        data.split,
        EnsembleOptions(
            seed=options.seed,
            folds=options.ensemble.folds,
            resamples=options.ensemble.resamples,
            sample_bytes=options.ensemble.sample_mb * 2**20,
            temperature=options.ensemble.temperature,
            latency_budget_ms=options.ensemble.latency_budget_ms,
            postprocess=options.ensemble.postprocess,
        ),
        background=data.index.background,
        out_dir=run.root,
        opened_at=context.now().isoformat(timespec="seconds"),
        opened_by="search/run.py",
        notes=candidate_logits.rounding_note(val),
        ingredients={c.trial: c.ingredients for c in chosen if c.ingredients},
        report=context.say,
        spread=RaySpread(gpus_a_task=min(1.0, options.resources.gpu)),
    )


def bundle(context: Context) -> None:
    """bundle/: what ships."""
    run, index = context.run, context.data.index
    facts = BundleFacts(index.name, index.fingerprint, context.data.split.fingerprint, index.licences)
    checkpoints = {c.trial: c.checkpoint for c in chosen_candidates(context)}
    export(facts, read_json(run.ensemble_json), checkpoints, run.bundle)


def report(context: Context) -> None:
    """report.html."""
    reporting.write(
        context.run,
        context.space,
        context.data.cache,
        context.data.split,
        ended=context.now().isoformat(timespec="seconds"),
    )


def chosen_candidates(context: Context) -> list[Candidate]:
    """The candidates of the ensemble, soups among them. Raises ValueError where no trial ended with a checkpoint."""
    return competitors(context.run, context.space.options.ensemble)


def offered_views(options: Options) -> list[View]:
    """The views of `tta`, no two of one pose; the plain one is always offered, so that every member can be judged by
    it."""
    tta = options.tta
    every = [View(scale, flip, turn) for scale in tta.scales for turn in tta.turns for flip in tta.flips]
    by_pose: dict[tuple[float, bool, int], View] = {}
    for view in [View(), *every]:
        by_pose.setdefault(view.pose, view)
    return list(by_pose.values())


def folders_of(run: RunDir, candidate: Candidate) -> dict[candidate_logits.Part, Path]:
    return {part: run.logits(candidate.trial, part) for part in candidate_logits.SPLITS}


def _has_logits(context: Context, candidate: Candidate) -> bool:
    folders, split = folders_of(context.run, candidate), context.data.split
    return all(
        any(folders[part].glob("*.safetensors"))
        and all(
            LogitStore(folders[part]).has(view.name, candidate_logits.ids_of(split, part))
            for view in offered_views(context.space.options)
        )
        for part in candidate_logits.SPLITS
    )
