"""A student as a bundle: one member in its plain view, with its own verdict's sentence and scores."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from analysis.bundle.export import export
from analysis.ensembling.distilled_result import Comparison
from analysis.ensembling.result import EnsembleResult, MemberResult, RuleResult, Verdict
from search.stages.bundle import facts_of
from search.stages.single_trial import PLAIN, UNKNOWN, unscored
from search.students.finished_run import FinishedRun
from trainables.fit_student import StudentRecord
from trainables.models.weights_file import BEST_WEIGHTS


@dataclass(frozen=True)
class Judged:
    """What a student's bundle says of it."""

    name: str  # of the rule and the member
    comparison: Comparison
    cost: float  # ms per image
    sentence: str
    caveats: tuple[str, ...] = ()


def write_bundle(finished: FinishedRun, record: StudentRecord, folder: Path, judged: Judged, out: Path) -> None:
    """Write `out`, the bundle of the student whose weights lie in `folder`."""
    facts = facts_of(finished.context.run)
    facts = replace(facts, run=replace(facts.run, num_train=len(record.train_ids)))
    export(facts, as_ensemble(finished.ensemble, record, judged), {judged.name: (folder / BEST_WEIGHTS,)}, out)


def as_ensemble(ensemble: EnsembleResult, record: StudentRecord, judged: Judged) -> EnsembleResult:
    """The run's result with the student as its only member and its only rule, which ships."""
    name, compared, num_classes = judged.name, judged.comparison, len(ensemble.classes)
    costs = {PLAIN: judged.cost}
    miou = 0.0 if record.miou is None else record.miou  # of val, where there is none; it goes into no bundle
    member = MemberResult(
        trial=name,
        recipe_hash=record.recipe.hash,
        family=record.recipe.family,
        views=(PLAIN,),
        val_miou=miou,
        costs=costs,
    )
    rule = RuleResult(
        name=name,
        vote="soft",
        weights=((1.0,) * num_classes,),
        views=((PLAIN,),),
        cost=judged.cost,
        temperatures=(1.0,),
        val_fitted=unscored(num_classes),
        val_crossfit=unscored(num_classes),
        holdout=compared.distilled,
        gain_crossfit=UNKNOWN,
        gain_over_rival_crossfit=UNKNOWN,
        gain_holdout=compared.over_single,
        gain_over_rival_holdout=compared.over_rival,
    )
    verdict = Verdict(
        rule=name,
        ship="single",
        sentence=judged.sentence,
        gain=compared.over_single,
        num_images=compared.num_images,
    )
    changes = {"members": (member,), "rules": (rule,), "verdict": verdict, "caveats": judged.caveats, "pareto": ()}
    return ensemble.model_copy(update=changes)
