"""One round of pseudo labels: its teachers' labels, its students, and their gain on labelled images that are new to
them. The hold-out has no part in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from analysis.ensembling.bootstrap import Draws, bootstrap_draws
from analysis.ensembling.crossfit import Images, Nested, make_crossfit_folds, nested
from analysis.ensembling.pseudo_result import PseudoRound, TriedShare
from analysis.pseudo_labels.verdict import Counts, gain_of, holds, reason_of
from analysis.voting.labelled_logits import LabelledLogits
from search.students.finished_run import FinishedRun
from search.students.pseudo_labelling import Labelled, NetworkTeacher, Trained, label_images
from search.students.pseudo_plans import Plans, StudentPlan
from search.students.pseudo_steps import Runner, Setting
from search.students.pseudo_training import ITSELF, count_network, train_consistent, train_student
from trainables.metrics import miou
from trainables.models.weights_file import BEST_WEIGHTS


@dataclass(frozen=True)
class Taught:
    """The students of a round, one per judged plan, with the share of pseudo labels that was taken."""

    students: tuple[Trained, ...]
    share: float
    counts: Counts  # (N,K,K) of the judged images, each by the share that was chosen without it
    labelled: Mapping[str, Labelled]  # as `_label` has them


@dataclass(frozen=True)
class Training:
    """The training of a plan's student, with a share of pseudo labels in its batches."""

    plan: StudentPlan
    labelled: Labelled | None  # None: by consistency
    share: float
    folder: Path  # of the round

    def trained(self, setting: Setting) -> Trained:
        place = self.folder / self.plan.name / (f"share-{self.share}" if len(setting.options.shares) > 1 else "")
        setting = setting.speaking_for(str(place.relative_to(self.folder.parent)))
        if self.labelled is None:
            return train_consistent(setting, self.plan, self.share, place / "student")
        return train_student(setting, self.plan, self.labelled, self.share, place)

    def judged(self, setting: Setting) -> tuple[Trained, Counts]:
        """The student, and its counts (N,K,K) of the images that judge it."""
        student = self.trained(setting)
        recipe, weights = student.record.recipe, student.folder / BEST_WEIGHTS
        return student, count_network(setting, recipe=recipe, weights=weights, ids=self.plan.judged)


def run_round(runner: Runner, plans: Plans, folder: Path, before: Counts) -> tuple[PseudoRound, Taught | None]:
    """Label, train and judge in `folder`, against the counts `before` (N,K,K); no students where a teacher is sure of
    nothing."""
    finished, shares = runner.setting.finished, runner.setting.options.shares
    labelled = _label(runner, plans, folder)
    done = _described(runner.setting, labelled)
    if not done.images:
        return done, None
    tried = [(share, plan) for share in shares for plan in plans.judged]
    tries = runner([Training(plan, labelled.get(plan.name), share, folder).judged for share, plan in tried])
    by_share = [tries[first : first + len(plans.judged)] for first in range(0, len(tries), len(plans.judged))]
    counts = [np.concatenate([counted for _, counted in some]) for some in by_share]
    chosen = _choose(finished, plans.judged_ids, counts)
    step = gain_of(chosen.counts, before, draws_of(finished, plans.judged_ids))
    confidence = finished.context.space.options.ensemble.confidence
    kind = "out of fold" if plans.shipped else "of val"
    place = chosen.whole[1]
    scored = tuple(TriedShare(share=s, miou=float(miou(c.sum(0)))) for s, c in zip(shares, counts, strict=True))
    changed = {
        "tried": scored,
        "share": shares[place],
        "gain": step,
        "helped": holds(step, confidence),
        "reason": reason_of(step, confidence, f"{len(before)} images {kind}"),
    }
    students = tuple(student for student, _ in by_share[place])
    return done.model_copy(update=changed), Taught(students, shares[place], chosen.counts, labelled)


def train_shipped(runner: Runner, plans: Plans, taught: Taught, folder: Path) -> Trained:
    """The student that the hold-out is opened for: the one that was judged, or one on all images that those learnt
    from."""
    if plans.shipped is None:
        [student] = taught.students
        return student
    labelled = taught.labelled.get(plans.shipped.name)
    [student] = runner([Training(plans.shipped, labelled, taught.share, folder).trained])
    return student


def taught_by(plans: Plans, taught: Taught, shipped: Trained, number: int) -> Plans:
    """The next round's plans: each student teaches its successor. It is measured by the other folds' students, or by
    itself on val."""
    measured = tuple(zip(taught.students, (plan.judged for plan in plans.judged), strict=True))

    def teacher(student: Trained, own: int | None) -> NetworkTeacher:
        others = tuple(one for place, one in enumerate(measured) if place != own) or measured
        name = f"student of round {number}" + (f" without fold {own}" if plans.shipped and own is not None else "")
        return NetworkTeacher(name, student, others)

    judged = [
        replace(plan, teacher=teacher(student, place))
        for place, (plan, student) in enumerate(zip(plans.judged, taught.students, strict=True))
    ]
    whole = replace(plans.shipped, teacher=teacher(shipped, None)) if plans.shipped else None
    return Plans(tuple(judged), whole)


def count_plain(runner: Runner, plans: Plans) -> Counts:
    """Counts (N,K,K) of the judged images without pseudo labels."""
    plain = [(plan.plain, plan.judged) for plan in plans.judged]
    steps = [partial(count_network, recipe=one.recipe, weights=one.weights, ids=ids) for one, ids in plain]
    return np.concatenate(runner(steps))


def draws_of(finished: FinishedRun, ids: Sequence[str]) -> Draws:
    """Resamples of these images, or of their groups."""
    context = finished.context
    images = LabelledLogits.of((), ids, context.data.cache, context.data.index)
    options = context.space.options
    return bootstrap_draws(images.groups, images.grouped, options.ensemble.resamples, options.seed)


def _choose(finished: FinishedRun, ids: Sequence[str], counts: Sequence[Counts]) -> Nested:
    """The share with the highest mIoU, and each image's counts by the one with the highest mIoU on other folds."""
    context = finished.context
    found, options = LabelledLogits.of((), ids, context.data.cache, context.data.index), context.space.options
    groups = dict(zip(ids, found.groups, strict=True))
    folds = make_crossfit_folds(ids, groups, found.grouped, options.ensemble.folds, options.seed)
    return nested([counts], folds, Images(found.groups, found.grouped, options.seed))


def _label(runner: Runner, plans: Plans, folder: Path) -> dict[str, Labelled]:
    """By the plan's name; none where students label for themselves. Kept where they are there already."""
    if runner.setting.options.schedule == "consistency":
        return {}
    every = (*plans.judged, *([plans.shipped] if plans.shipped else []))
    steps = [partial(label_images, teacher=plan.teacher, folder=folder / plan.name / "labels") for plan in every]
    found = dict(zip((plan.name for plan in every), runner(steps), strict=True))
    for plan in every:
        seen = found[plan.name].labels.teacher.train_ids
        assert not set(seen) & set(plan.judged), "it would hand on labels that judge its student"
    return found


def _described(setting: Setting, labelled: Mapping[str, Labelled]) -> PseudoRound:
    """The round before its students are trained."""
    found = [one.labels for one in labelled.values()]
    if not found:
        return PseudoRound(
            teacher=ITSELF,
            labels=(),
            images=len(setting.finished.unlabelled),
            dropped=0,
            certain=None,
            gain=None,
            helped=False,
            reason="",
        )
    fewest = min(found, key=lambda one: len(one.labels))
    certain = [label.certain for one in found for label in one.labels]
    least, dropped = setting.options.min_certain, fewest.dropped
    return PseudoRound(
        teacher=found[-1].teacher.name,
        labels=tuple(one.fingerprint for one in found),
        images=len(fewest.labels),
        dropped=dropped,
        certain=sum(certain) / len(certain) if certain else 0.0,
        gain=None,
        helped=False,
        reason=f"no class is certain enough on {least:.0%} of any of {dropped} images",
    )
