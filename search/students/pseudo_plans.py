"""Which students a run's pseudo labels are tried with: what each trains on, is judged on and has to beat, and who
teaches it.

Without folds there is one, judged on val. With folds there is one per fold: it trains as the fold's models did, is
taught by them alone, and is judged on the fold, whose labels have reached neither. Together they cross-fit the gain.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from analysis.ensembling.pseudo_options import PseudoOptions
from search.stages.bundle import weights_of
from search.stages.single_trial import BEST_SINGLE, with_trial_alone
from search.students.finished_run import FinishedRun, recipe_of
from search.students.pseudo_labelling import EnsembleTeacher, PseudoTeacher
from trainables.data.index import Split
from trainables.data.splits.folds import read_folds
from trainables.models.weights_file import REFIT_WEIGHTS
from trainables.recipe.recipe import Recipe

FOLD_MEMBER = "folds-"  # before the name of the trial whose recipe its fold models have


@dataclass(frozen=True)
class Plain:
    """A model without pseudo labels: what its student has to beat, and may begin with."""

    trial: str
    recipe: Recipe
    weights: Path


@dataclass(frozen=True)
class StudentPlan:
    """One student of a round."""

    name: str  # of its folder; empty where it is the only one
    split: Split  # labelled images: those that it trains on, and those that choose its epoch, none of a fold's
    judged: tuple[str, ...]  # labelled images that neither it nor its teacher was trained on
    plain: Plain
    teacher: PseudoTeacher


@dataclass(frozen=True)
class Plans:
    """The students that are judged, and the one that is shipped where that is another."""

    judged: tuple[StudentPlan, ...]
    shipped: StudentPlan | None = None

    @property
    def judged_ids(self) -> tuple[str, ...]:
        return tuple(image_id for plan in self.judged for image_id in plan.judged)


def make_plans(finished: FinishedRun, options: PseudoOptions) -> Plans:
    """Raises ValueError where there is no such rule, no such trial, or no model of each fold of its recipe."""
    data, ensemble, run = finished.context.data, finished.ensemble, finished.context.run
    teacher = EnsembleTeacher.of(finished, options.rule)
    if not ensemble.fitted_on.folds:
        split = data.split
        return Plans((StudentPlan("", split, split.val_ids, _trial_alone(finished, options), teacher),))
    folds, member = read_folds(run.folds_json, data.split), _fold_member(finished, options)
    trial, weights = member.removeprefix(FOLD_MEMBER), weights_of(run, ensemble, "mean")[member]
    plans = []
    mark = data.split.fingerprint  # of the run: a bundle is of one split
    for fold, path in enumerate(weights):
        split = folds.split_of(fold, data.index, data.split)
        unseen = replace(teacher, fold=fold, unseen=split.val_ids)
        others = replace(split, val_ids=(), fingerprint=mark)
        plans.append(StudentPlan(f"fold-{fold}", others, split.val_ids, Plain(trial, recipe_of(path), path), unseen))
    refit = run.fold_models(member) / REFIT_WEIGHTS
    if not refit.is_file():
        alone = _trial_alone(finished, options.model_copy(update={"trial": trial}))
        return Plans(tuple(plans), StudentPlan("whole", data.split, (), alone, teacher))
    whole = replace(folds.split_of(None, data.index, data.split), fingerprint=mark)
    return Plans(tuple(plans), StudentPlan("whole", whole, (), Plain(trial, recipe_of(refit), refit), teacher))


def _best_single(finished: FinishedRun) -> str:
    ensemble = finished.ensemble
    return ensemble.members[ensemble.rule(BEST_SINGLE).fitted.used[0]].trial


def _trial_alone(finished: FinishedRun, options: PseudoOptions) -> Plain:
    """The best single model's trial, or the one that was asked for."""
    run, ensemble = finished.context.run, finished.ensemble
    weights = weights_of(run, ensemble)
    widened, alone, weights = with_trial_alone(run, ensemble, weights, options.trial or _best_single(finished))
    trial = widened.members[alone.fitted.used[0]].trial
    [path] = weights[trial]
    return Plain(trial, recipe_of(path), path)


def _fold_member(finished: FinishedRun, options: PseudoOptions) -> str:
    """The best single member, or that of the trial that was asked for."""
    if options.trial is None:
        return _best_single(finished)
    names, asked = [member.trial for member in finished.ensemble.members], options.trial.removeprefix(FOLD_MEMBER)
    for name in names:
        trial = name.removeprefix(FOLD_MEMBER)
        if asked == trial or (asked.isdecimal() and trial.isdecimal() and int(asked) == int(trial)):
            return name
    raise ValueError(
        f"--trial must be one whose recipe was trained once per fold, got {options.trial!r}; choose one of: "
        f"{', '.join(name.removeprefix(FOLD_MEMBER) for name in names)}"
    )
