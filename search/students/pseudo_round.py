"""One round of pseudo labels: its teachers' labels, its students, and their gain on labelled images that are new to
them. The hold-out has no part in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from analysis.ensembling.bootstrap import Draws, bootstrap_draws
from analysis.ensembling.crossfit import Images, Nested, make_crossfit_folds, nested
from analysis.ensembling.pseudo_result import PseudoRound, TriedShare
from analysis.pseudo_labels.verdict import Counts, gain_of, holds, reason_of
from analysis.voting.labelled_logits import LabelledLogits
from search.students.pseudo_labelling import Labelled, NetworkTeacher, Trained, label_images
from search.students.pseudo_plans import Plans, StudentPlan
from search.students.pseudo_training import ITSELF, Setting, count_network, train_consistent, train_student
from trainables.metrics import miou
from trainables.models.weights_file import BEST_WEIGHTS


@dataclass(frozen=True)
class Taught:
    """The students of a round, one per judged plan, with the share of pseudo labels that was taken."""

    students: tuple[Trained, ...]
    share: float
    counts: Counts  # (N,K,K) of the judged images, each by the share that was chosen without it
    labelled: Mapping[str, Labelled]  # as `_label` has them


def run_round(setting: Setting, plans: Plans, folder: Path, before: Counts) -> tuple[PseudoRound, Taught | None]:
    """Label, train and judge in `folder`, against the counts `before` (N,K,K); no students where a teacher is sure of
    nothing."""
    shares = setting.options.shares
    labelled = _label(setting, plans, folder)
    done = _described(setting, labelled)
    if not done.images:
        return done, None
    students = [[_train(setting, plan, labelled, share, folder) for plan in plans.judged] for share in shares]
    counts = [count_students(setting, plans, some) for some in students]
    chosen = _choose(setting, plans.judged_ids, counts)
    step = gain_of(chosen.counts, before, draws_of(setting, plans.judged_ids))
    confidence = setting.finished.context.space.options.ensemble.confidence
    kind = "out of fold" if plans.shipped else "of val"
    place = chosen.whole[1]
    tried = tuple(TriedShare(share=s, miou=float(miou(c.sum(0)))) for s, c in zip(shares, counts, strict=True))
    changed = {
        "tried": tried,
        "share": shares[place],
        "gain": step,
        "helped": holds(step, confidence),
        "reason": reason_of(step, confidence, f"{len(before)} images {kind}"),
    }
    return done.model_copy(update=changed), Taught(tuple(students[place]), shares[place], chosen.counts, labelled)


def train_shipped(setting: Setting, plans: Plans, taught: Taught, folder: Path) -> Trained:
    """The student that the hold-out is opened for: the one that was judged, or one on all images that those learnt
    from."""
    if plans.shipped is None:
        [student] = taught.students
        return student
    return _train(setting, plans.shipped, taught.labelled, taught.share, folder)


def taught_by(setting: Setting, plans: Plans, taught: Taught, shipped: Trained, number: int) -> Plans:
    """The next round's plans: each student teaches its successor. It is measured by the other folds' students, or by
    itself on val."""
    measured = tuple(zip(taught.students, (plan.judged for plan in plans.judged), strict=True))

    def teacher(student: Trained, own: int | None) -> NetworkTeacher:
        others = tuple(one for place, one in enumerate(measured) if place != own) or measured
        name = f"student of round {number}" + (f" without fold {own}" if plans.shipped and own is not None else "")
        return NetworkTeacher(setting.finished, name, student, others, setting.device)

    judged = [
        replace(plan, teacher=teacher(student, place))
        for place, (plan, student) in enumerate(zip(plans.judged, taught.students, strict=True))
    ]
    whole = replace(plans.shipped, teacher=teacher(shipped, None)) if plans.shipped else None
    return Plans(tuple(judged), whole)


def count_plain(setting: Setting, plans: Plans) -> Counts:
    """Counts (N,K,K) of the judged images without pseudo labels."""
    return np.concatenate(
        [
            count_network(setting.finished, plan.plain.recipe, plan.plain.weights, plan.judged, setting.device)
            for plan in plans.judged
        ]
    )


def count_students(setting: Setting, plans: Plans, students: Sequence[Trained]) -> Counts:
    """Counts (N,K,K) of the judged images, each by the student that it is new to."""
    return np.concatenate(
        [
            count_network(setting.finished, one.record.recipe, one.folder / BEST_WEIGHTS, plan.judged, setting.device)
            for plan, one in zip(plans.judged, students, strict=True)
        ]
    )


def draws_of(setting: Setting, ids: Sequence[str]) -> Draws:
    """Resamples of these images, or of their groups."""
    context = setting.finished.context
    images = LabelledLogits.of((), ids, context.data.cache, context.data.index)
    options = context.space.options
    return bootstrap_draws(images.groups, images.grouped, options.ensemble.resamples, options.seed)


def _choose(setting: Setting, ids: Sequence[str], counts: Sequence[Counts]) -> Nested:
    """The share with the highest mIoU, and each image's counts by the one with the highest mIoU on other folds."""
    context = setting.finished.context
    found, options = LabelledLogits.of((), ids, context.data.cache, context.data.index), context.space.options
    groups = dict(zip(ids, found.groups, strict=True))
    folds = make_crossfit_folds(ids, groups, found.grouped, options.ensemble.folds, options.seed)
    return nested([counts], folds, Images(found.groups, found.grouped, options.seed))


def _label(setting: Setting, plans: Plans, folder: Path) -> dict[str, Labelled]:
    """By the plan's name; none where students label for themselves. Kept where they are there already."""
    if setting.options.schedule == "consistency":
        return {}
    found = {}
    for plan in (*plans.judged, *([plans.shipped] if plans.shipped else [])):
        one = label_images(setting.finished, plan.teacher, setting.options, folder / plan.name / "labels")
        assert not set(one.labels.teacher.train_ids) & set(plan.judged), (
            "it would hand on labels that judge its student"
        )
        found[plan.name] = one
    return found


def _train(
    setting: Setting, plan: StudentPlan, labelled: Mapping[str, Labelled], share: float, folder: Path
) -> Trained:
    tried = f"share-{share}" if len(setting.options.shares) > 1 else ""
    place = folder / plan.name / tried
    if setting.options.schedule == "consistency":
        return train_consistent(setting, plan, share, place / "student")
    return train_student(setting, plan, labelled[plan.name], share, place)


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
