"""Runs the stages in order: search, noise, soups, folds, logits, ensemble with verdict, bundle, pseudo labels, report.

Stages exchange files. A stage that run.json records as done is skipped; it is recorded only after its last file was
renamed into place, so an interrupted stage runs again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from search.run_dir import read_json, write_json
from search.stages import bundle, ensemble, folds, logits, noise, report, search, soups
from search.stages.prepare_cluster import check_cluster, spread_cache
from search.stages.stage import Context, Stage
from search.students import pseudo_stage

STAGES: Mapping[Stage, Callable[[Context], None]] = {
    Stage.search: search.run,
    Stage.noise: noise.run,
    Stage.soups: soups.run,
    Stage.folds: folds.run,
    Stage.logits: logits.run,
    Stage.ensemble: ensemble.run,
    Stage.bundle: bundle.run,
    Stage.pseudo: pseudo_stage.run,
    Stage.report: report.run,
}


def run_all(context: Context, until: Stage = Stage.report) -> None:
    """Run every stage that is not done yet, up to `until`. Raises ValueError for errors that the user can correct, and
    where the cluster lacks what one of them holds, before the first of them begins."""
    ordered = list(Stage)[: list(Stage).index(until) + 1]
    done = read_json(context.run.run_json)["stages"]
    check_cluster(context, [name for name in ordered if not done.get(name)])
    for name in ordered:
        if done.get(name):
            context.say(f"{name}: done at {done[name]}, skipped")
            continue
        context.say(f"== {name}")
        spread_cache(context, name)
        STAGES[name](context)
        record = read_json(context.run.run_json)
        record["stages"][name] = context.now().isoformat(timespec="seconds")
        write_json(context.run.run_json, record)
