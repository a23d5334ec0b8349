"""How well the score at an early epoch foretold the final one, and what stopping trials there has cost and saved.

A trial's final score is the best of its epochs; a trial is known where it ran to the end. Of a stopped trial, the
gain that was still to come is foretold from the known trials of its bracket which had the same epoch behind them: the
mean and spread of their gains give Student's predictive distribution of one more gain (Gelman et al. 2013, Bayesian
Data Analysis, section 3.2, with its reference prior). Trials that were let run to the end were chosen by their score,
which luck had raised: their gains tend to be the smaller ones, so the number of missed wins is a lower bound. Stopped
trials that were trained on afterwards, drawn at random, have no such bias: they are known too, and counted apart.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.stats import binomtest, spearmanr
from scipy.stats import t as student

from trainables.recipe.config import Config

MIN_KNOWN = 4  # trials; of fewer neither a rank correlation nor a spread is told
TOLERANCE = 0.005  # mIoU that the best trial kept may lie below the best one, for a grace period to be recommended


@dataclass(frozen=True)
class Curve:
    """A trial's validation mIoU by epoch of the search, which it `survived` where it ran to the end.

    `more` has the epochs that a stopped trial was trained on for afterwards: to the end, or until it diverged.
    """

    trial: str
    bracket: str
    survived: bool
    mious: Mapping[int, float]
    more: Mapping[int, float] | None = None

    @property
    def known(self) -> bool:
        return self.survived or self.more is not None

    @cached_property
    def final(self) -> float:
        return max([*self.mious.values(), *(self.more or {}).values()])

    @cached_property
    def last_epoch(self) -> int:
        """Of the search."""
        return max(self.mious)

    def at(self, epoch: int) -> float | None:
        """mIoU after an epoch, None where it had none."""
        return self.mious.get(epoch, (self.more or {}).get(epoch))


class RungAgreement(Config):
    """Spearman's correlation over the known trials of a bracket between the score at an epoch and the final one."""

    bracket: str
    epoch: int
    num_known: int
    rank_correlation: float | None  # None of fewer than MIN_KNOWN trials, or of equal scores


class StoppedTrial(Config):
    """A trial that was stopped, and how likely it would have become the best of its bracket."""

    trial: str
    bracket: str
    epoch: int
    miou: float
    win_probability: float | None  # None where too few trials of its bracket are known
    final: float | None = None  # mIoU that it came to where it was trained on; the probability is then 0 or 1


class Audit(Config):
    """What early stopping did in one search."""

    rungs: tuple[RungAgreement, ...]
    stopped: tuple[StoppedTrial, ...]
    epochs_run: int
    epochs_saved: int
    grace_epochs: int | None  # recommended; None where too few trials are known
    advice: str

    @property
    def missed_wins(self) -> float | None:
        """The expected number of stopped trials that would have become the best of their bracket."""
        told = [one.win_probability for one in self.stopped if one.win_probability is not None]
        return sum(told) if told else None

    @property
    def trained_on(self) -> str:
        """A sentence on the stopped trials that were trained on, and what follows for all of them (Clopper and Pearson
        1934); empty where none was."""
        tried = [one for one in self.stopped if one.final is not None]
        if not tried:
            return ""
        wins = sum(one.win_probability == 1.0 for one in tried)
        low, high = binomtest(wins, len(tried)).proportion_ci(method="exact")
        every = len(self.stopped)
        return (
            f"{len(tried)} of {every} stopped trials, drawn at random, were trained on: {wins} became the best of "
            f"their bracket, so {max(wins, low * every):.1f} to {high * every:.1f} of all would have (95%)"
        )


def audit_curves(curves: Sequence[Curve], milestones: Sequence[int], max_epochs: int, reduction_factor: float) -> Audit:
    """`curves` are of all trials that reported an epoch, `milestones` the epochs at which trials were compared."""
    brackets = sorted({curve.bracket for curve in curves})
    known = {bracket: [curve for curve in curves if curve.bracket == bracket and curve.known] for bracket in brackets}
    grace, advice = advise_grace(list(known.values()), max_epochs, reduction_factor)
    stops = {(curve.bracket, curve.last_epoch) for curve in curves if not curve.known}
    bests = {
        bracket: max((curve.final for curve in known[bracket] if curve.survived), default=None) for bracket in known
    }
    outlooks = {(bracket, epoch): outlook(known[bracket], bests[bracket], epoch) for bracket, epoch in stops}
    return Audit(
        rungs=tuple(_agreement(bracket, epoch, known[bracket]) for bracket in brackets for epoch in milestones),
        stopped=tuple(
            _stopped(curve, bests[curve.bracket], outlooks.get((curve.bracket, curve.last_epoch)))
            for curve in curves
            if not curve.survived
        ),
        epochs_run=sum(curve.last_epoch for curve in curves),
        epochs_saved=sum(max_epochs - curve.last_epoch for curve in curves if not curve.survived),
        grace_epochs=grace,
        advice=advice,
    )


def _agreement(bracket: str, epoch: int, known: Sequence[Curve]) -> RungAgreement:
    pairs = [(miou, curve.final) for curve in known if (miou := curve.at(epoch)) is not None]
    found = None
    if len(pairs) >= MIN_KNOWN and all(len(set(column)) > 1 for column in zip(*pairs, strict=True)):
        found = round(float(spearmanr(*zip(*pairs, strict=True)).statistic), 4)
    return RungAgreement(bracket=bracket, epoch=epoch, num_known=len(pairs), rank_correlation=found)


@dataclass(frozen=True)
class Outlook:
    """What the known trials of a bracket foretell of a trial that was stopped at an epoch."""

    best: float  # of the trials that were not stopped, at their end
    mean: float  # gain that was still to come
    spread: float  # standard deviation of one more gain
    num_known: int

    def win_probability(self, miou: float) -> float:
        """That a trial with this score at the epoch would have become the best."""
        distance = (self.best - miou - self.mean) / max(self.spread, 1e-12)
        return round(float(student.sf(distance, self.num_known - 1)), 4)


def outlook(known: Sequence[Curve], best: float | None, epoch: int) -> Outlook | None:
    """None where fewer than MIN_KNOWN trials reported the epoch, or every trial was stopped. It serves all trials that
    were stopped there."""
    gains = np.array([curve.final - miou for curve in known if (miou := curve.at(epoch)) is not None])
    if best is None or len(gains) < MIN_KNOWN:
        return None
    spread = float(gains.std(ddof=1)) * math.sqrt(1 + 1 / len(gains))
    return Outlook(best, float(gains.mean()), spread, len(gains))


def _stopped(curve: Curve, best: float | None, found: Outlook | None) -> StoppedTrial:
    miou = curve.mious[curve.last_epoch]
    if curve.known:
        probability = None if best is None else float(curve.final > best)
    else:
        probability = found.win_probability(miou) if found else None
    return StoppedTrial(
        trial=curve.trial,
        bracket=curve.bracket,
        epoch=curve.last_epoch,
        miou=miou,
        win_probability=probability,
        final=curve.final if curve.known else None,
    )


def advise_grace(
    brackets: Sequence[Sequence[Curve]], max_epochs: int, reduction_factor: float
) -> tuple[int | None, str]:
    """The earliest epoch at and after which the best 1 / reduction_factor of each bracket's known trials always hold
    one that ends within TOLERANCE of its best one, and a sentence."""
    least = max(MIN_KNOWN, math.ceil(reduction_factor) + 1)
    enough = [known for known in brackets if len(known) >= least]
    if not enough:
        most = max((len(known) for known in brackets), default=0)
        return None, (
            f"a grace period needs a bracket of at least {least} trials that ran to the end, got at most {most}; "
            "search longer, or once with search.grace_epochs at search.max_epochs"
        )
    lost = [max(_regret(known, epoch, reduction_factor) for known in enough) for epoch in range(1, max_epochs + 1)]
    grace = 1 + max((epoch for epoch, regret in enumerate(lost, start=1) if regret > TOLERANCE), default=0)
    grace = min(grace, max_epochs)
    num_trials = sum(map(len, enough))
    return grace, (
        f"from epoch {grace} on, the best {1 / reduction_factor:.0%} of a bracket held a trial within {TOLERANCE} mIoU "
        f"of its best one, in {len(enough)} brackets of {num_trials} known trials: search.grace_epochs={grace}"
    )


def _regret(known: Sequence[Curve], epoch: int, reduction_factor: float) -> float:
    """How far the best of those that would be kept at an epoch ends below the best of all."""
    reached = [(miou, curve.final) for curve in known if (miou := curve.at(epoch)) is not None]
    if not reached:
        return 0.0
    kept = sorted(reached, key=lambda pair: -pair[0])[: max(1, int(len(reached) / reduction_factor))]
    return max(final for _, final in reached) - max(final for _, final in kept)
