"""The ensemble stage: fit every rule on val, judge them on the hold-out."""

from __future__ import annotations

from analysis.ensembling.fit import fit_ensemble
from analysis.ensembling.options import EnsembleOptions
from search.cluster.ray_executor import RayExecutor
from search.stages.logits import chosen_candidates, has_logits
from search.stages.stage import Context
from trainables.logits import write_logits as candidate_logits
from trainables.logits.store import LogitStore


def run(context: Context) -> None:
    """Fit every rule on val, cross-fitted; open the hold-out once; write ensemble.json."""
    folder, data, options = context.run, context.data, context.space.options
    chosen = [c for c in chosen_candidates(context) if has_logits(context, c)]
    val = [LogitStore(folder.logits(c.trial, "val")) for c in chosen]
    fit_ensemble(
        val,
        [LogitStore(folder.logits(c.trial, "holdout")) for c in chosen],
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
        out_dir=folder.root,
        opened_at=context.now().isoformat(timespec="seconds"),
        opened_by="search/run.py",
        notes=candidate_logits.rounding_note(val),
        ingredients={c.trial: c.ingredients for c in chosen if c.ingredients},
        report=context.say,
        executor=RayExecutor(gpus_per_task=min(1.0, options.resources.gpu)),
    )
