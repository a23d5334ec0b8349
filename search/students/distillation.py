"""Distillation of a finished run: the teacher's soft labels, the student's training, then its verdict and bundle.

What is there already is kept: teacher/, best.safetensors, bundle/, and distilled.json, which comes last.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from analysis.bundle.export import export
from analysis.bundle.manifest import read_bundle
from analysis.bundle.predictor import Predictor, resolve_device
from analysis.bundle.readme import write_score
from analysis.distillation.teacher import (
    StoredRule,
    is_written,
    out_of_fold,
    predicted,
    teacher_fingerprint,
    teacher_header,
    write_soft_labels,
)
from analysis.ensembling.distilled_result import DistilledResult, DistilOptions, TeacherFacts
from analysis.ensembling.result import EnsembleResult, RuleResult
from analysis.report.student import mark_student
from search.stages.bundle import facts_of, weights_of
from search.stages.single_trial import BEST_SINGLE, with_trial_alone
from search.students.finished_run import (
    FinishedRun,
    recipe_of,
    student_split,
    with_epochs,
    without_mixing,
    write_options,
)
from search.students.judging import Student, judge
from trainables.data.index import Split
from trainables.data.label_overlay import LabelOverlay
from trainables.fit_student import StudentJob, fit_student
from trainables.logits.store import LogitStore
from trainables.models.weights_file import fingerprint
from trainables.recipe.recipe import Recipe
from trainables.training.distillation import SoftLabels

RESULT, TEACHER = "distilled.json", "teacher"
SEVERAL = 2  # members that make an ensemble


@dataclass(frozen=True)
class Plan:
    """Who teaches whom on which images."""

    rule: RuleResult
    trial: str  # whose recipe the student has
    recipe: Recipe
    changes: tuple[str, ...]  # what differs from the trial's
    split: Split  # train: labelled and unlabelled images
    labelled: tuple[str, ...]
    unlabelled: tuple[str, ...]
    is_out_of_fold: bool  # whether the labelled images were predicted by members that never saw them


def run(finished: FinishedRun, options: DistilOptions, out: Path, *, device: str, ranks: int) -> DistilledResult:
    """Train and judge the student in `out`, which `finished_run.check_target` has passed. One that was judged is left
    as it is."""
    if (out / RESULT).is_file():
        finished.context.say(f"{out} holds its verdict already")
        return DistilledResult.read(out / RESULT)
    device, ensemble, context = resolve_device(device), finished.ensemble, finished.context
    plan = make_plan(finished, options)
    write_options(out, options)
    for line in plan.changes:
        context.say(f"student: {line}")
    with tempfile.TemporaryDirectory(dir=context.run.root, prefix=".distil-") as temporary:
        bundles = {name: Path(temporary) / name for name in ("ensemble", "single")}
        weights, root = weights_of(context.run, ensemble), context.run.root
        export(facts_of(context.run), ensemble, weights, bundles["ensemble"], plan.rule, ensemble_dir=root)
        export(facts_of(context.run), ensemble, weights, bundles["single"], ensemble.rule(BEST_SINGLE))
        predictors = {name: Predictor(read_bundle(path), device=device) for name, path in bundles.items()}
        used = [path for m in plan.rule.fitted.used for path in weights[ensemble.members[m].trial]]
        soft, facts = _teach(finished, plan, options, predictors["ensemble"], [fingerprint(p) for p in used], out)
        cache = LabelOverlay(context.data.cache, dict.fromkeys(plan.unlabelled))
        job = StudentJob(plan.recipe, plan.split, plan.unlabelled, soft.identity, soft)
        record = fit_student(job, cache, out, device=device, num_ranks=ranks, say=context.say)
        student = Student(plan.trial, record, plan.changes, plan.rule, facts, options, out)
        result = judge(finished, student, predictors)
    result.write(out / RESULT)
    report = context.run.report
    if out == context.run.distilled and report.is_file() and not mark_student(report, result):
        context.say(f"note: {report} is of an earlier version and does not show the student")
    return result


def make_plan(finished: FinishedRun, options: DistilOptions) -> Plan:
    """Raises ValueError where the rule is none of the run's, or one model alone, or there is no such trial."""
    ensemble, context = finished.ensemble, finished.context
    rule = teaching_rule(ensemble, options.rule)
    weights = weights_of(context.run, ensemble)
    single = ensemble.members[ensemble.rule(BEST_SINGLE).fitted.used[0]].trial
    trial = single
    if options.trial is not None:
        widened, alone, weights = with_trial_alone(context.run, ensemble, weights, options.trial)
        trial = widened.members[alone.fitted.used[0]].trial
    recipe, changes = without_mixing(recipe_of(weights[trial][0]))
    recipe, longer = with_epochs(recipe, options.epochs)
    changes += longer
    unlabelled = finished.unlabelled if options.unlabelled else ()
    labelled, val = student_split(context)
    split = Split((*labelled, *unlabelled), val, context.data.split.holdout_ids, context.data.split.fingerprint)
    is_out_of_fold = ensemble.fitted_on.kind == "out_of_fold"
    return Plan(rule, trial, recipe, changes, split, labelled, unlabelled, is_out_of_fold)


def teaching_rule(ensemble: EnsembleResult, name: str | None) -> RuleResult:
    """The rule of this name, or the verdict's. Raises ValueError where it is none, or one model alone."""
    able = {rule.name: rule for rule in ensemble.rules if len(rule.fitted.used) >= SEVERAL}
    wanted = name or ensemble.verdict.rule
    if wanted in able:
        return able[wanted]
    scored = [f"{one.name} (cross-fitted {write_score(one.val_crossfit)})" for one in able.values()]
    what = "one model alone" if any(rule.name == wanted for rule in ensemble.rules) else "none of the run's rules"
    raise ValueError(
        f"a student learns from a rule of several members, got {wanted}, {what}"
        + ("" if name else ", which the verdict ships")
        + f"; choose one with --rule: {', '.join(scored) or 'this run has none'}"
    )


def _teach(
    finished: FinishedRun,
    plan: Plan,
    options: DistilOptions,
    predictor: Predictor,
    weights: Sequence[str],
    out: Path,
) -> tuple[SoftLabels, TeacherFacts]:
    """Write what the teacher says of every image that the student learns from, unless it is there."""
    context, ensemble = finished.context, finished.ensemble
    data, rule = context.data, plan.rule.fitted.of_used()
    named = (plan.labelled if plan.is_out_of_fold else (), () if plan.is_out_of_fold else plan.labelled)
    mark = teacher_fingerprint(rule, weights, data.index.fingerprint, [*named, plan.unlabelled])
    header = teacher_header(data.index.classes, data.index.fingerprint, data.split.fingerprint, mark)
    if not is_written(out / TEACHER, header, plan.split.train_ids):
        context.say(f"teacher {plan.rule.name}: {len(plan.split.train_ids)} images")
        said = predicted(predictor, data.cache, (*named[1], *plan.unlabelled))
        if plan.is_out_of_fold:
            trials = [ensemble.members[m].trial for m in plan.rule.fitted.used]
            stores = [LogitStore(context.run.logits(trial, "val")) for trial in trials]
            stored = StoredRule.of(rule, stores, context.run.root)
            said = (one for some in (out_of_fold(stored, plan.labelled), said) for one in some)
        write_soft_labels(out / TEACHER, header, said)
    facts = TeacherFacts(
        fingerprint=mark,
        rule=plan.rule.name,
        members=tuple(ensemble.members[m].trial for m in plan.rule.fitted.used),
        out_of_fold=len(named[0]),
        in_sample=len(named[1]),
        unlabelled=len(plan.unlabelled),
    )
    return SoftLabels(out / TEACHER, mark, options.alpha, options.temperature), facts


def describe(result: DistilledResult) -> list[str]:
    """The result as lines for a terminal."""
    found, latency = result.comparison, result.latency
    rows: Mapping[str, tuple[str, float]] = {
        "single": (write_score(found.single), latency.single_ms),
        "ensemble": (write_score(found.ensemble), latency.ensemble_ms),
        "distilled": (write_score(found.distilled), latency.distilled_ms),
    }
    table = [f"{name:10} {score:24} {ms:8.1f} ms per image ({latency.device})" for name, (score, ms) in rows.items()]
    return [*table, *(f"note: {caveat}" for caveat in result.caveats), result.sentence]
