"""The ensemble stage: fit every rule on val, judge them on the hold-out."""

from __future__ import annotations

from collections.abc import Sequence

from analysis.ensembling.fit import fit_ensemble
from analysis.ensembling.judge_on_holdout import Provenance
from analysis.ensembling.result import HoldoutOpening, MemberForm
from analysis.voting.labelled_logits import LabelledLogits
from search.cluster.nodes import live_nodes, num_holders
from search.cluster.ray_executor import RayExecutor
from search.stages.folds import chosen_candidates, judged_split
from search.stages.logits import has_logits
from search.stages.stage import Context
from trainables.logits.store import LogitStore
from trainables.logits.write_logits import Candidate, Part, rounding_note


def run(context: Context) -> None:
    """Fit every rule on val, cross-fitted; open the hold-out once; write ensemble.json."""
    data, options = context.data, context.space.options
    split = judged_split(context)
    chosen = [c for c in chosen_candidates(context) if has_logits(context, c)]

    def logits(part: Part, ids: Sequence[str]) -> LabelledLogits:
        stores = [LogitStore(context.run.logits(c.trial, part)) for c in chosen]
        return LabelledLogits.of(stores, ids, data.cache, data.index)

    val = logits("val", split.val_ids)
    form, *others = forms_of(chosen)
    holdout = {one: logits("refit" if one == "refit" else "holdout", split.holdout_ids) for one in (form, *others)}
    provenance = Provenance(
        opening=HoldoutOpening(at=context.now().isoformat(timespec="seconds"), by="search/run.py"),
        notes=rounding_note(val.stores),
        ingredients={c.trial: c.ingredients for c in chosen if c.ingredients and not c.ships_refit},
        folds=max((len(c.folds) for c in chosen), default=0),
        form=form,
        other_forms={other: holdout[other] for other in others},
    )
    executor = RayExecutor(gpus_per_task=_gpus(context), say=context.say, files=context.files)
    fit_ensemble(
        val, holdout[form], options.ensemble, provenance, context.run.root, seed=options.seed, executor=executor
    )


def _gpus(context: Context) -> float:
    """What a task holds of a GPU: none where the machine that has the run's directory has none."""
    gpus = min(1.0, context.space.options.resources.gpu)
    if not gpus or num_holders({"cpu": 1.0, "gpu": gpus}, context.files.where_seen(live_nodes())):
        return gpus
    context.say(f"ensemble: on CPUs, since the machine of the run's directory has less than {gpus:g} GPU")
    return 0.0


def forms_of(candidates: Sequence[Candidate]) -> list[MemberForm]:
    """In which forms the candidates predicted the hold-out, the one that ships first. A refit is compared where every
    candidate has one."""
    if all(c.ships_refit for c in candidates):
        return ["refit", "mean"]
    if all(c.refit for c in candidates):
        return ["mean", "refit"]
    return ["mean" if any(c.folds for c in candidates) else "trial"]
