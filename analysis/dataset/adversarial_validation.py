"""Tells how alike two sets of images are: a classifier is asked to tell them apart.

From features (N,F) of both sets, and what must stay together (near-duplicates), it returns the AUC of out-of-fold
predictions with a 95% interval from refitted resamples, the AUC of each named feature and of each family, and a score
per image. An interval that holds 0.5 says that the classifier found no difference; 1.0, that the sets share nothing.

The classifier is a logistic regression on standardised features, the network's reduced to their first components. It
never predicts an image that it, or a near-duplicate of it, was fitted on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold
from sklearn.preprocessing import StandardScaler

Float = NDArray[np.float64]
MAX_IMAGES = 2000  # of each set; more only narrow the interval
NUM_FOLDS, NUM_REPEATS = 5, 3
NUM_RESAMPLES = 1000  # of a single feature's AUC, which needs no fit
NUM_REFITS = 100
COMPONENTS = 24
MIN_IMAGES = 8  # of each set
STRENGTH = 0.1  # inverse of the L2 penalty: hundreds of features meet hundreds of images


@dataclass(frozen=True)
class Auc:
    value: float
    low: float  # 95%
    high: float

    @property
    def holds_half(self) -> bool:
        return self.low <= 0.5 <= self.high


@dataclass(frozen=True)
class Comparison:
    """How well sets `a` and `b` can be distinguished. `scores` (out-of-fold) are high where an image looks like b."""

    auc: Auc
    families: Mapping[str, Auc]
    features: Mapping[str, tuple[Auc, float, float]]  # name -> its own AUC, median in a, median in b
    scores_a: Float  # (Na,)
    scores_b: Float  # (Nb,)
    caveat: str | None


def subsample(image_ids: Sequence[str], rng: np.random.Generator) -> list[str]:
    """At most MAX_IMAGES of them, in their order."""
    if len(image_ids) <= MAX_IMAGES:
        return list(image_ids)
    kept = np.sort(rng.choice(len(image_ids), MAX_IMAGES, replace=False))
    return [image_ids[n] for n in kept]


def compare(
    families: Mapping[
        str, tuple[NDArray[np.floating], NDArray[np.floating]]
    ],  # family -> features of set a (Na,F), of set b (Nb,F)
    named: Mapping[
        str, tuple[NDArray[np.floating], NDArray[np.floating]]
    ],  # feature -> its values in set a (Na,), in set b (Nb,)
    units: Sequence[str],  # (Na+Nb,): near-duplicates share one
    *,
    seed: int,
    judge_families: bool = True,
) -> Comparison:
    """The whole comparison. Raises ValueError for a set of fewer than 8 images."""
    num_a, num_b = (len(values) for values in next(iter(families.values())))
    if min(num_a, num_b) < MIN_IMAGES:
        raise ValueError(f"two sets can be compared from {MIN_IMAGES} images each on, got {num_a} and {num_b}")
    is_b = np.repeat([False, True], [num_a, num_b])
    unit_of = np.unique(np.array(units), return_inverse=True)[1]
    apart = min(len(np.unique(unit_of[~is_b])), len(np.unique(unit_of[is_b]))) >= NUM_FOLDS
    times = _draws(unit_of if apart else np.arange(len(is_b)), is_b, np.random.default_rng(seed))
    blocks = {name: _reduced(np.concatenate(pair).astype(np.float64), seed) for name, pair in families.items()}
    kept = unit_of if apart else None
    auc, scores = _judge(np.concatenate(list(blocks.values()), axis=1), is_b, kept, times, seed)
    by_family = {name: _judge(values, is_b, kept, times, seed)[0] for name, values in blocks.items() if judge_families}
    features = {
        name: (_interval(np.concatenate((a, b)), is_b, times), float(np.median(a)), float(np.median(b)))
        for name, (a, b) in named.items()
    }
    caveat = None if apart else (
        f"one of the two sets has fewer than {NUM_FOLDS} clusters of near-duplicates, so they could not be kept apart "
        "while the classifier was tested: it may know single scenes, and the AUC is the higher for it"
    )  # fmt: skip
    return Comparison(auc, by_family, features, scores[~is_b], scores[is_b], caveat)


def _judge(
    values: Float, is_b: NDArray[np.bool_], units: NDArray[np.intp] | None, times: Float, seed: int
) -> tuple[Auc, Float]:
    """The AUC of out-of-fold predictions, and the predictions (N,).

    The interval comes from classifiers that are each fitted on a resample and tested on the images that it left out
    (the bootstrap's out-of-bag third: Breiman 1996). So it holds what the choice of images to fit on does to the
    AUC; a bootstrap of the predictions alone misses that and was too narrow in 3 of 10 sets without any difference.
    """
    scores = _out_of_fold(values, is_b, units, seed)
    value = _auc(scores, is_b)
    left_out = []
    for drawn in times[:NUM_REFITS]:
        fitted, held = drawn > 0, drawn == 0
        if 0 < is_b[held].sum() < held.sum() and 0 < is_b[fitted].sum() < fitted.sum():
            model = _classifier().fit(values[fitted], is_b[fitted], sample_weight=drawn[fitted])
            left_out.append(_auc(model.decision_function(values[held]), is_b[held]))
    low, high = np.percentile(left_out, [2.5, 97.5]) if len(left_out) > NUM_REFITS // 2 else (0.0, 1.0)
    return Auc(value, min(value, float(low)), max(value, float(high))), scores


def _out_of_fold(values: Float, is_b: NDArray[np.bool_], units: NDArray[np.intp] | None, seed: int) -> Float:
    """(N,): each image's log odds of being in b, by classifiers not fitted on it, averaged over repeats."""
    total = np.zeros(len(is_b))
    for repeat in range(NUM_REPEATS):
        folds = (StratifiedKFold if units is None else StratifiedGroupKFold)(
            NUM_FOLDS, shuffle=True, random_state=seed + repeat
        )
        for fitted, held in folds.split(values, is_b, units):
            if 0 < is_b[fitted].sum() < len(fitted):
                total[held] += _classifier().fit(values[fitted], is_b[fitted]).decision_function(values[held])
    return total / NUM_REPEATS


def _classifier() -> LogisticRegression:
    return LogisticRegression(C=STRENGTH, class_weight="balanced", max_iter=200, tol=1e-3)


def _reduced(block: Float, seed: int) -> Float:
    """Standardised columns; many of them as their first components, standardised again. No set is named here."""
    values = StandardScaler().fit_transform(block)
    if block.shape[1] > 2 * COMPONENTS:
        components = min(COMPONENTS, len(block) - 1)
        values = PCA(components, whiten=True, random_state=seed, svd_solver="randomized").fit_transform(values)
    return np.asarray(values, np.float64)


def _auc(scores: Float, is_b: NDArray[np.bool_]) -> float:
    return _interval(scores, is_b, np.ones((1, len(scores)))).value


def _draws(units: NDArray[np.intp], is_b: NDArray[np.bool_], rng: np.random.Generator) -> Float:
    """(R,N): how often each resample draws each image: whole units, the two sets apart."""
    times = np.zeros((NUM_RESAMPLES, len(is_b)), np.float64)
    for side in (False, True):
        rows = np.flatnonzero(is_b == side)
        own = np.unique(units[rows], return_inverse=True)[1]
        num = int(own.max()) + 1
        drawn = rng.multinomial(num, np.full(num, 1 / num), size=NUM_RESAMPLES)  # (R,U)
        times[:, rows] = drawn[:, own]
    return times


def _interval(scores: Float, is_b: NDArray[np.bool_], times: Float) -> Auc:
    """AUC = P(score of b > score of a), ties half, with the percentile interval of the resamples."""
    order = np.argsort(scores, kind="stable")
    starts = np.flatnonzero(np.concatenate(([True], np.diff(scores[order]) > 0)))  # ties share a step
    weights = np.concatenate((np.ones((1, len(scores))), times))[:, order]  # (1+R,N); the first is the set itself
    in_b = np.add.reduceat(weights * is_b[order], starts, axis=1)
    in_a = np.add.reduceat(weights * ~is_b[order], starts, axis=1)
    below = np.cumsum(in_a, axis=1) - 0.5 * in_a
    aucs = (in_b * below).sum(axis=1) / (in_b.sum(axis=1) * in_a.sum(axis=1))
    low, high = np.percentile(aucs[1:], [2.5, 97.5])
    return Auc(float(aucs[0]), float(low), float(high))
