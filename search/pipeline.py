"""Runs the stages in order: search, noise, soups, folds, logits, ensemble with verdict, bundle, pseudo labels, report.

Stages exchange files. A stage that run.json records as done is skipped; it is recorded only after its last file was
renamed into place, so an interrupted stage runs again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from search.observers.progress import duration
from search.run_dir import read_json, write_json
from search.stages import bundle, ensemble, folds, logits, noise, report, search, soups
from search.stages.prepare_cluster import check_cluster, spread_cache
from search.stages.stage import Context, Stage
from search.stages.stage_forecast import forecast
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
    record = read_json(context.run.run_json)
    done = record["stages"]
    check_cluster(context, [name for name in ordered if not done.get(name)])
    for name in ordered:
        if done.get(name):
            context.say(f"{name}: done at {done[name]}, skipped")
            continue
        if name is not Stage.search and "forecast_s" not in record:
            record["forecast_s"] = forecast(context)
            write_json(context.run.run_json, record)
        context.say(f"== {name}\n{checklist(ordered, record, name)}")
        spread_cache(context, name)
        begun = context.now()
        STAGES[name](context)
        ended, record = context.now(), read_json(context.run.run_json)
        record["stages"][name] = ended.isoformat(timespec="seconds")
        record.setdefault("stage_s", {})[name] = round((ended - begun).total_seconds(), 1)  # of this session
        write_json(context.run.run_json, record)
    context.say(checklist(ordered, record))


def checklist(ordered: Sequence[Stage], record: Mapping[str, Any], running: Stage | None = None) -> str:
    """'[x] search 1m10s  [>] logits about 40s  [ ] ensemble about 2m00s  (about 2m40s left)', by what run.json records
    as done, how long it took, and what the others were expected to take when the search had ended."""
    done, took, expected = record["stages"], record.get("stage_s", {}), record.get("forecast_s", {})
    entries, left_s = [], 0.0
    for name in ordered:
        time = f" {duration(took[name])}" if done.get(name) and name in took else ""
        if not done.get(name) and name in expected:
            time, left_s = f" about {duration(expected[name])}", left_s + expected[name]
        entries.append(f"[{'x' if done.get(name) else '>' if name == running else ' '}] {name}{time}")
    return "  ".join([*entries, *([f"(about {duration(left_s)} left)"] if left_s else [])])
