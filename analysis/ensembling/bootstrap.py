"""The paired bootstrap over images or groups: confidence intervals of mIoU, IoU and gains."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri, stdtrit

from analysis.ensembling.result import Gain, Score
from trainables.metrics import iou, miou

MIN_GROUPS = 6  # below, only large gains can be shown
Counts = NDArray[np.int64]
Scores = NDArray[np.float64]


@dataclass(frozen=True)
class Draws:
    """`times[r, u]`: how often resample r draws unit u; `unit_of[i]` is image i's unit."""

    unit: Literal["image", "group"]
    unit_of: NDArray[np.int64]  # (N,)
    times: NDArray[np.uint16]  # (R,U): the one table that grows with both, so kept small


@dataclass(frozen=True)
class Resampled:
    """One rule's scores: of all images, and of every resample, as far from the former as so few units ask for
    (`widening`). NaN for a class that does not occur."""

    miou: float
    iou: Scores  # (K,)
    mious: Scores  # (R,), twice as many of few units
    ious: Scores  # (R,K)


def bootstrap_draws(group_of_image: Sequence[str], grouped: bool, num_resamples: int, seed: int) -> Draws:
    """Resamples of groups where the card names groups, of images elsewhere."""
    unit_of = np.arange(len(group_of_image))
    if grouped:
        unit_of = np.unique(np.array(group_of_image), return_inverse=True)[1]
    num_units = int(unit_of.max()) + 1
    rng = np.random.default_rng(seed)
    equal, times = np.full(num_units, 1 / num_units), np.empty((num_resamples, num_units), np.uint16)
    for row in times:  # as one call for all rows would draw, without its int64
        row[:] = rng.multinomial(num_units, equal)
    return Draws("group" if grouped else "image", unit_of.astype(np.int64), times)


def widening(num_units: int) -> float:
    """What the distance of a resample's score from the estimate is multiplied by; NaN for one unit.

    The spread of G resampled units is sqrt((G - 1) / G) of the true one, and its own error makes the interval one of
    Student's t: t(.975, G-1) / z(.975) * sqrt(G / (G - 1)) (the expanded percentile interval of Hesterberg 2015, "What
    teachers should know about the bootstrap"). With ten units 1.22, with a hundred 1.02.
    """
    if num_units < 2:
        return float("nan")
    return float(stdtrit(num_units - 1, 0.975) / ndtri(0.975) * np.sqrt(num_units / (num_units - 1)))


def resample(counts: Counts, draws: Draws) -> Resampled:
    """Counts (N,K,K) int64 to the scores of every resample."""
    num_units, num_classes = draws.times.shape[1], counts.shape[1]
    units = np.zeros((num_units, num_classes * num_classes), np.float64)
    np.add.at(units, draws.unit_of, counts.reshape(len(counts), -1).astype(np.float64))
    mious, ious = [], []
    for times in np.array_split(draws.times, max(1, len(draws.times) // 100)):  # bounds the memory for many classes
        # exact: whole numbers below 2**53
        sums = (times @ units).astype(np.int64).reshape(-1, num_classes, num_classes)  # (r,K,K)
        mious.append(miou(sums))
        ious.append(iou(sums))
    total = counts.sum(0)
    return widened(float(miou(total)), iou(total), np.concatenate(mious), np.concatenate(ious), num_units)


def widened(miou: float, iou: Scores, mious: Scores, ious: Scores, num_units: int) -> Resampled:
    """Scores of resamples, moved away from the estimate (`widening`). One unit says nothing of another: all NaN.

    Resamples of a few units have a few values, and no say in how lopsided the scores of others are: each counts on
    either side of the estimate, so that an interval reaches as far up as down.
    """
    factor = widening(num_units)
    if num_units < MIN_GROUPS:
        mious, ious = np.concatenate([mious, 2 * miou - mious]), np.concatenate([ious, 2 * iou - ious])
    return Resampled(miou, iou, miou + factor * (mious - miou), iou + factor * (ious - iou))


def _interval(values: Scores) -> tuple[float, float] | tuple[None, None]:
    known = values[~np.isnan(values)]
    if known.size == 0:
        return None, None
    low, high = np.percentile(known, [2.5, 97.5])
    return float(low), float(high)


def _within(bounds: tuple[float, float] | tuple[None, None]) -> tuple[float, float] | tuple[None, None]:
    """An interval of a score, which lies in [0, 1]."""
    if bounds[0] is None or bounds[1] is None:
        return None, None
    return max(bounds[0], 0.0), min(bounds[1], 1.0)


def summary(scores: Resampled) -> Score:
    """mIoU and IoU per class with 95% percentile intervals, None for NaN."""
    low, high = _within(_interval(scores.mious))
    known = ~np.isnan(scores.iou)
    bounds = [_within(_interval(scores.ious[:, k])) if known[k] else (None, None) for k in range(len(known))]
    return Score(
        miou=None if np.isnan(scores.miou) else scores.miou,
        low=low,
        high=high,
        iou=tuple(float(value) if ok else None for value, ok in zip(scores.iou, known, strict=True)),
        iou_low=tuple(bound[0] for bound in bounds),
        iou_high=tuple(bound[1] for bound in bounds),
    )


def gain(rule: Resampled, over: Resampled) -> Gain:
    """The paired difference in mIoU, its 95% interval, and the share of resamples in which it is above 0."""
    difference = rule.mious - over.mious
    low, high = _interval(difference)
    return Gain(gain=rule.miou - over.miou, low=low, high=high, p_positive=float((difference > 0).mean()))


def class_gains(rule: Resampled, over: Resampled) -> dict[int, Gain]:
    """Class -> the paired difference in IoU with its 95% interval, where the class has an IoU under both rules. A class
    that was in no resample has none, and is left out."""
    found = {}
    for k in np.flatnonzero(~np.isnan(rule.iou - over.iou)).tolist():
        difference = rule.ious[:, k] - over.ious[:, k]
        low, high = _interval(difference)
        if low is not None and high is not None:
            gained = float(rule.iou[k] - over.iou[k])
            found[k] = Gain(gain=gained, low=low, high=high, p_positive=float((difference > 0).mean()))
    return found
