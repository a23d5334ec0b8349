"""What the report says of a run besides its verdict: where the numbers come from, the families' leaderboard, early
stopping, labels that look wrong. All of it is read from files of the run directory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import yaml

from analysis.ensembling.bootstrap import bootstrap_draws, resample
from analysis.ensembling.read_confusions import read_members
from analysis.ensembling.result import EnsembleResult
from analysis.report.data_checks import SuspectsSummary
from analysis.report.leaderboard import Entry, FamilyRow, leaderboard
from analysis.report.origin import Origin, Shipped, StageTime, commands
from analysis.search_quality import NoiseFloor, Overtuning, estimate_overtuning
from analysis.submission import read_ledger
from search.observers.trial_row import TrialRow
from search.run_dir import RunDir, read_json
from search.space.options import Options
from search.stages.stage import Stage
from trainables.data.index import SegIndex

FOLDS = "folds-"  # before the trial's name, of a member that is the mean of its fold models


def origin_of(run: RunDir, record: Mapping[str, Any], ensemble: EnsembleResult, rows: Sequence[TrialRow]) -> Origin:
    """From run.json; runs of earlier versions lack some of it."""
    git, seed = record.get("git"), record.get("seed")
    commit = f"{git.get('commit', '')!s}{'+' if git.get('changed') else ''}" if isinstance(git, dict) else ""
    done, took = record["stages"], record.get("stage_s", {})
    return Origin(
        seed=seed,
        commit=commit,
        versions={name: version or "not installed" for name, version in record["versions"].items()},
        fingerprints={name: record.get(f"{name}_fingerprint", "") for name in ("data", "split")},
        stages=[StageTime(name, done[name], took.get(name)) for name in Stage if name in done],
        recipes=shipped_recipes(ensemble, rows),
        commands=commands(str(run.root), record["card"], record.get("command", ()), seed or 0),
    )


def shares_of(ensemble: EnsembleResult) -> list[float]:
    """Each member's share (M,) of the shipped rule's weight, mean over classes."""
    mean = np.asarray(ensemble.shipped.weights, dtype=float).mean(axis=1)
    shares: list[float] = (mean / max(float(mean.sum()), 1e-12)).tolist()
    return shares


def trials_behind(ensemble: EnsembleResult, m: int) -> list[str]:
    """The trials whose recipes member m comes from: itself, a soup's ingredients, or that of its fold models."""
    member = ensemble.members[m]
    names = [one.split()[0] for one in member.ingredients or ()] or [member.trial.removeprefix(FOLDS)]
    return list(dict.fromkeys(names))


def shipped_recipes(ensemble: EnsembleResult, rows: Sequence[TrialRow]) -> list[Shipped]:
    """The whole recipe of every member that has a weight, the strongest first."""
    by_trial, shares = {row.trial: row for row in rows}, shares_of(ensemble)
    found = []
    for m in sorted(ensemble.shipped.fitted.used, key=lambda m: -shares[m]):
        recipes = [by_trial[name].recipe for name in trials_behind(ensemble, m) if name in by_trial]
        if recipes:
            text = yaml.safe_dump(recipes[0], sort_keys=False, allow_unicode=True)
            found.append(Shipped(ensemble.members[m].trial, shares[m], text))
    return found


def families(rows: Sequence[TrialRow], ensemble: EnsembleResult, floor: NoiseFloor | None) -> list[FamilyRow]:
    """The leaderboard of backbone families."""
    scores = {row.trial: row.best_miou for row in rows if row.best_miou is not None}
    shares: dict[str, float] = {}
    for member, share in zip(ensemble.members, shares_of(ensemble), strict=True):
        shares[member.family] = shares.get(member.family, 0.0) + share
    out_of_fold = {
        member.trial.removeprefix(FOLDS): member.val_miou
        for member in ensemble.members
        if member.trial.startswith(FOLDS)
    }
    ties = floor.ties(scores) if floor and scores else []
    return leaderboard([_entry(row) for row in rows], ties, out_of_fold, shares)


def overtuning(
    run: RunDir,
    index: SegIndex,
    ensemble: EnsembleResult,
    floor: NoiseFloor | None,
    rows: Sequence[TrialRow],
    options: Options,
) -> Overtuning | None:
    """What the best candidate owes to the images that it was chosen on, and to its seed; None for one candidate, for
    images of one group, and for a run of an earlier version."""
    names = [member.trial for member in ensemble.members]
    found = read_members(run.confusions, names)
    if found is None or len(names) < 2:
        return None
    ids, counts = found
    group_of = {image.image_id: image.group for image in index.images}
    groups = [group_of[image_id] for image_id in ids]
    if index.grouped and len(set(groups)) < 2:
        return None
    draws = bootstrap_draws(groups, index.grouped, options.ensemble.resamples, options.seed)
    scores = [resample(counts[name], draws) for name in names]
    sizes = {row.trial: row.params_m for row in rows}
    # an out-of-fold score is of as many trainings as there are folds, each on its own images
    spread = floor.spread / np.sqrt(max(1, ensemble.fitted_on.folds)) if floor else None
    return estimate_overtuning(
        names,
        np.array([score.miou for score in scores]),
        np.stack([score.mious for score in scores], axis=1),
        [sizes.get(trials_behind(ensemble, m)[0]) for m in range(len(names))],
        seed_spread=spread,
        seed=options.seed,
    )


def submissions(run: RunDir) -> list[dict[str, Any]]:
    """The run's lines of the ledger of leaderboard scores beside it."""
    return [
        line for line in read_ledger(run.root.parent) if isinstance(line, dict) and line.get("run") == run.root.name
    ]


def suspects(run: RunDir) -> SuspectsSummary | None:
    """What `segsearch cleanse` found in the run's labels, where it has written into the run directory."""
    path = run.suspects / "suspects.json"
    if not path.is_file():
        return None
    found = read_json(path)
    if "headline" not in found:
        return None  # of an earlier version; the report names the command that looks again
    return SuspectsSummary(
        found["headline"], found["num_images"], found["counts"], f"{run.suspects.name}/suspects.html"
    )


def _entry(row: TrialRow) -> Entry:
    return Entry(
        trial=row.trial,
        family=row.family,
        model=f"{row.backbone} + {row.head}",
        epochs=row.epochs,
        stopped=row.state != "COMPLETE",
        device=row.device,
        device_s=row.device_s,
        val=row.best_miou,
    )
