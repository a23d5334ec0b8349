"""Decides whether small components and holes are removed from the taken rule's label maps: only where that pays.

One pass measures each class, step and size alone (`ChangeCounts`); per class and step, the size that gains most is
chosen on the other folds. A second one applies the combination to the fold that was held out, so that its score is
cross-fitted; it is kept only where that mIoU rises, holds, and no class loses IoU significantly. Then sizes are chosen
on all of val. One label map is in memory at a time, made anew in each pass.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csc_array, csr_array, vstack

from analysis.ensembling.bootstrap import Draws, Resampled, class_gains, gain, resample, widened
from analysis.ensembling.crossfit import CrossfitFolds
from analysis.ensembling.result import Gain, PostprocessResult
from analysis.ensembling.verdict import HOLDS_AT
from analysis.postprocess.label_map import SIZES, STEPS, alone, postprocess
from analysis.postprocess.options import Postprocess
from analysis.voting.executor import LOCAL, Executor, JobGroup
from analysis.voting.labelled_logits import LabelledLogits
from analysis.voting.score_images import label_map, row_of
from analysis.voting.view_config import VoteBatch
from trainables.metrics import confusion, iou_of, mean_iou

POSTPROCESSED = "postprocessed"  # the rule's name among the others
MIN_GAIN = 1e-3  # cross-fitted mIoU that all of it must add: less is not worth what it does to single images
MIN_ALONE = 1e-4  # mIoU that a class's step must add by itself: each one brings a chance that another class falls
Counts = NDArray[np.int64]


@dataclass(frozen=True)
class PostprocessFit:
    """What came of it. `steps` and the counts (N,K,K) `fitted` with them on all of val are None where nothing is kept;
    `crossfitted` (N,K,K) and its paired gain over the rule without are None where no combination was tried."""

    steps: Postprocess | None
    reason: str
    crossfitted: Counts | None = None
    step: Gain | None = None
    fitted: Counts | None = None

    def result(self, rule: str) -> PostprocessResult:
        """ensemble.json's `postprocess`: of which rule, whether kept and why, the sizes, the cross-fitted gain."""
        kept = self.steps is not None
        return PostprocessResult(rule=rule, kept=kept, reason=self.reason, steps=self.steps, gain=self.step)


@dataclass(frozen=True)
class Changes:
    """What every option alone does to every image: how many right and predicted pixels each class gains. Sparse: an
    image shows few classes. Option o is (step, class, size) in the order of `alone`."""

    cells: csc_array  # (N, O * 2K)
    num_classes: int

    @classmethod
    def of(cls, rows: Sequence[csr_array], num_classes: int) -> Changes:
        """From the results of `ChangeCounts`."""
        return cls(csc_array(vstack(rows)), num_classes)

    def totals(self, of: NDArray[np.bool_]) -> Counts:
        """(O,2,K) over the images `of` (N,)."""
        total = of.astype(np.int64) @ self.cells
        return np.asarray(total).reshape(-1, 2, self.num_classes)

    def option(self, o: int) -> Counts:
        """(N,2,K) of one option."""
        width = 2 * self.num_classes
        part = self.cells[:, o * width : (o + 1) * width].toarray()
        return np.asarray(part).reshape(-1, 2, self.num_classes)


def fit_postprocess(
    changes: Changes,
    data: LabelledLogits,
    batches: Sequence[VoteBatch],  # one vote each: the rule without each fold, and, last, fitted on all of val
    folds: CrossfitFolds,
    counts: Counts,  # (N,K,K) of those votes on the folds that they did not see
    draws: Draws,
    executor: Executor = LOCAL,
) -> PostprocessFit:
    """Chooses, cross-fits and decides, by what each option alone changes."""
    everything = np.ones(len(data.ids), bool)
    steps = choose_steps(changes, counts, draws, everything)
    if steps.idle:
        return PostprocessFit(None, _best_alone(changes, counts, draws, data.classes))
    by_fold = [choose_steps(changes, counts, draws, folds.of_image != fold) for fold in range(folds.num)]
    crossed = PostprocessCounts.of(data, list(zip(batches[:-1], by_fold, strict=True)), folds.of_image)
    whole = PostprocessCounts.of(data, [(batches[-1], steps)], None)
    parts = list(executor(JobGroup((crossed, whole)), data.ids, "post-processing on val"))
    cleaned, fitted = (np.concatenate(rows) for rows in zip(*parts, strict=True))
    return decide(steps, counts, cleaned, fitted, draws, data.classes)


def count(data: LabelledLogits, batch: VoteBatch, steps: Postprocess, executor: Executor = LOCAL) -> Counts:
    """Counts (N,K,K) of a batch's only vote, post-processed."""
    job = PostprocessCounts.of(data, [(batch, steps)], None)
    return np.concatenate(list(executor(job, data.ids, "post-processing")))


@dataclass(frozen=True)
class ChangeCounts:
    """A job: what each option alone does to each image under the vote of its fold; a sparse row (1, O * 2K) each."""

    data: LabelledLogits
    batches: tuple[VoteBatch, ...]  # one per fold, of one vote each
    fold_of: Mapping[str, int]
    device: None = None

    @classmethod
    def of(cls, data: LabelledLogits, batches: Sequence[VoteBatch], fold_of: NDArray[np.int64]) -> ChangeCounts:
        return cls(data, tuple(batches), row_of(data.ids, fold_of))

    def __call__(self, ids: Sequence[str]) -> csr_array:
        rows = []
        for image_id in ids:
            label = label_map(self.data.stores, self.batches[self.fold_of[image_id]], image_id)
            moved = alone(label, self.data.label(image_id), self.data.num_classes)
            rows.append(csr_array(moved.reshape(1, -1)))
        return csr_array(vstack(rows))


@dataclass(frozen=True)
class PostprocessCounts:
    """A job: counts (n,K,K) of images, each voted and post-processed by the plan of its fold."""

    data: LabelledLogits
    plan: tuple[tuple[VoteBatch, Postprocess], ...]  # one per fold
    fold_of: Mapping[str, int]
    device: None = None

    @classmethod
    def of(
        cls, data: LabelledLogits, plan: Sequence[tuple[VoteBatch, Postprocess]], fold_of: NDArray[np.int64] | None
    ) -> PostprocessCounts:
        return cls(data, tuple(plan), row_of(data.ids, fold_of))

    def __call__(self, ids: Sequence[str]) -> Counts:
        out = []
        for image_id in ids:
            batch, sizes = self.plan[self.fold_of[image_id]]
            label = postprocess(label_map(self.data.stores, batch, image_id), sizes)
            out.append(confusion(self.data.label(image_id), label, self.data.num_classes))
        return np.stack(out)


def choose_steps(changes: Changes, counts: Counts, draws: Draws, of: NDArray[np.bool_]) -> Postprocess:
    """Per step and class the size that alone gains most on the images `of` (N,), of equals the smallest; 0 where none
    gains `MIN_ALONE` there and meets the rule that the combination has to meet."""
    judge = _Alone(changes, counts, draws, of)
    num_classes = counts.shape[1]
    gains = judge.gains.reshape(len(STEPS), num_classes, len(SIZES))
    chosen = np.zeros(gains.shape[:2])
    for step, k in np.argwhere((gains >= MIN_ALONE).any(2)):
        for size in np.argsort(-gains[step, k], kind="stable"):
            option = (int(step) * num_classes + int(k)) * len(SIZES) + int(size)
            if gains[step, k, size] >= MIN_ALONE and _pays(judge.before, judge.after(option)):
                chosen[step, k] = SIZES[size]
                break
    return Postprocess(**{name: tuple(row) for name, row in zip(STEPS, chosen.tolist(), strict=True)})


def decide(
    steps: Postprocess, counts: Counts, cleaned: Counts, fitted: Counts, draws: Draws, classes: Sequence[str]
) -> PostprocessFit:
    """Keeps `steps` where the mIoU of `cleaned` (N,K,K) lies above that of `counts`, and no class loses IoU
    significantly; `fitted` (N,K,K) are the counts with the steps that were chosen on all of val."""
    before, after = resample(counts, draws), resample(cleaned, draws)
    step = gain(after, before)
    held = f"{_words(step)} mIoU cross-fitted on {len(counts)} images, above 0 in {step.p_positive:.0%} of resamples"
    if not _holds(step) or step.gain < MIN_GAIN:
        needed = f"{MIN_GAIN} and {HOLDS_AT:.0%} are needed"
        return PostprocessFit(None, f"its gain does not hold: {held}; {needed}", cleaned, step)
    fallen = _fallen(after, before)
    if fallen:
        words = ", ".join(f"{classes[k]} {_words(change)}" for k, change in fallen.items())
        return PostprocessFit(None, f"it gains {held}, but {words} IoU: a significant loss", cleaned, step)
    return PostprocessFit(steps, f"it gains {held}, and no class loses IoU significantly", cleaned, step, fitted)


class _Alone:
    """Options alone, on some images, in all resamples."""

    def __init__(self, changes: Changes, counts: Counts, draws: Draws, of: NDArray[np.bool_]) -> None:
        self._changes, self._of = changes, of
        self._unit_of, self._times = draws.unit_of[of], draws.times  # units of other images stay empty
        right = np.diagonal(counts, axis1=1, axis2=2)
        base = np.stack([right, counts.sum(1), counts.sum(2)], axis=1)[of]  # (n,3,K) right, predicted, true
        self._total = base.sum(0)
        self._sums = np.tensordot(self._times, self._by_unit(base), 1)  # (R,3,K)
        self._num_units = len(np.unique(self._unit_of))
        self.before = _resampled(self._total, self._sums, self._num_units)
        totals = changes.totals(of)  # (O,2,K)
        true = np.broadcast_to(self._total[2], (len(totals), 1, counts.shape[1]))
        self.gains = mean_iou(_iou(np.concatenate([totals + self._total[:2], true], axis=1))) - self.before.miou  # (O,)

    def after(self, option: int) -> Resampled:
        moved = self._changes.option(option)[self._of]  # (n,2,K)
        moved = np.concatenate([moved, np.zeros_like(moved[:, :1])], axis=1)
        units = self._by_unit(moved)
        touched = units.any((1, 2))
        sums = self._sums + np.tensordot(self._times[:, touched], units[touched], 1)
        return _resampled(self._total + moved.sum(0), sums, self._num_units)

    def _by_unit(self, counts: Counts) -> NDArray[np.float64]:
        units = np.zeros((self._times.shape[1], *counts.shape[1:]))
        np.add.at(units, self._unit_of, counts)
        return units


def _best_alone(changes: Changes, counts: Counts, draws: Draws, classes: Sequence[str]) -> str:
    """Why no size was chosen, by the one that came nearest."""
    judge = _Alone(changes, counts, draws, np.ones(len(counts), bool))
    best = int(np.argmax(judge.gains))
    if judge.gains[best] <= 0:
        return f"no class gains from either step at any size, alone on {len(counts)} images of val"
    step, k, size = np.unravel_index(best, (len(STEPS), len(classes), len(SIZES)))
    what = (
        f"{('components', 'holes')[int(step)]} of {classes[int(k)]} below 1/{round(1 / SIZES[int(size)])} of the image"
    )
    after = judge.after(best)
    found = gain(after, judge.before)
    fallen = [classes[k] for k in _fallen(after, judge.before)]
    but = f"; the IoU of {', '.join(fallen)} falls" if fallen else ""
    return (
        f"no class and size pays alone on val: the best, {what}, changes it by {_words(found)} mIoU, above 0 in "
        f"{found.p_positive:.0%} of resamples ({MIN_ALONE} and {HOLDS_AT:.0%} are needed){but}"
    )


def _pays(before: Resampled, after: Resampled) -> bool:
    return _holds(gain(after, before)) and not _fallen(after, before)


def _holds(step: Gain) -> bool:
    return step.gain > 0 and step.p_positive >= HOLDS_AT


def _fallen(after: Resampled, before: Resampled) -> dict[int, Gain]:
    """Classes that lose IoU significantly: the paired 95% interval lies below 0."""
    return {k: change for k, change in class_gains(after, before).items() if change.is_below_zero}


def _words(change: Gain) -> str:
    """Four decimals: specks are few pixels."""
    if change.low is None or change.high is None:
        return f"{change.gain:+.4f} (no interval: one group)"
    return f"{change.gain:+.4f} [{change.low:+.4f}, {change.high:+.4f}]"


def _resampled(total: NDArray[Any], sums: NDArray[np.float64], num_units: int) -> Resampled:
    """(3,K), (R,3,K) [right, predicted, true]."""
    ious = _iou(sums)
    return widened(float(mean_iou(_iou(total))), _iou(total), mean_iou(ious), ious, num_units)


def _iou(sums: NDArray[Any]) -> NDArray[np.float64]:  # (..,3,K) -> (..,K)
    return iou_of(sums[..., 0, :], sums[..., 1, :], sums[..., 2, :])
