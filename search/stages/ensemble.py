"""The ensemble stage: fit every rule on val, judge them on the hold-out."""

from __future__ import annotations

from analysis.ensembling.fit import Provenance, fit_ensemble
from analysis.ensembling.result import HoldoutOpening
from analysis.voting.labelled_logits import LabelledLogits
from search.cluster.ray_executor import RayExecutor
from search.stages.folds import chosen_candidates, judged_split
from search.stages.logits import has_logits
from search.stages.stage import Context
from trainables.logits import write_logits as candidate_logits
from trainables.logits.store import LogitStore


def run(context: Context) -> None:
    """Fit every rule on val, cross-fitted; open the hold-out once; write ensemble.json."""
    folder, data, options = context.run, context.data, context.space.options
    split = judged_split(context)
    chosen = [c for c in chosen_candidates(context) if has_logits(context, c)]
    val = [LogitStore(folder.logits(c.trial, "val")) for c in chosen]
    holdout = [LogitStore(folder.logits(c.trial, "holdout")) for c in chosen]
    opening = HoldoutOpening(at=context.now().isoformat(timespec="seconds"), by="search/run.py")
    ingredients = {c.trial: c.ingredients for c in chosen if c.ingredients}
    fit_ensemble(
        LabelledLogits.of(val, split.val_ids, data.cache, data.index),
        LabelledLogits.of(holdout, split.holdout_ids, data.cache, data.index),
        options.ensemble,
        Provenance(
            opening, candidate_logits.rounding_note(val), ingredients, max((len(c.folds) for c in chosen), default=0)
        ),
        folder.root,
        seed=options.seed,
        executor=RayExecutor(gpus_per_task=min(1.0, options.resources.gpu), say=context.say),
    )
