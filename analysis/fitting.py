"""Every rule fitted to val, as a whole and without each fold, and scored on all pixels of val.

Enters: a `FittingSample`, what the rules of each fit look at (`Sights`), stores and labels of val. Leaves: counts
(N,K,K) int64 a rule, fitted and cross-fitted, and the rule's chosen candidate. No label of the hold-out is read here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from analysis.crossfit import Folds, nested
from analysis.passes import Ballot, LabelSource, Look, Report, score_images
from analysis.rules import JOINT, OWN_VIEWS, PLAIN, RULES, Sample, best_member, fit_rules
from analysis.sampling import FittingSample
from analysis.sights import Sights
from analysis.spread import Spread
from analysis.temperature import SILENT, fit_temperature
from analysis.voting import Float, Labels, Vote
from trainables.logits import LogitStore

Counts = NDArray[np.int64]


@dataclass(frozen=True)
class Choice:
    """A rule as it is used: what it looks at, and how it votes."""

    look: Look
    vote: Vote


@dataclass(frozen=True)
class Candidates:
    """Every rule's candidates: those of a ballot see the same, and `rules[b][v]` is the rule of its vote v."""

    ballots: tuple[Ballot, ...]
    rules: tuple[tuple[str, ...], ...]

    def of(self, name: str) -> list[tuple[int, int]]:
        """Where the candidates of a rule are: (ballot, vote)."""
        return [(b, v) for b, names in enumerate(self.rules) for v, rule in enumerate(names) if rule == name]


@dataclass(frozen=True)
class Outcome:
    """By rule: its counts (N,K,K) fitted on all of val, those fitted without each image's fold, and what is used."""

    fitted: dict[str, Counts]
    crossfitted: dict[str, Counts]
    choices: dict[str, Choice]


def fit_val(
    stores: Sequence[LogitStore],
    ids: Sequence[str],
    labels: LabelSource,
    sample: FittingSample,
    sights_of: Callable[[int | None], Sights],  # without a fold, or of all
    folds: Folds,
    max_sweeps: int,
    calibrate: bool,  # offer each joint rule its candidates again, on calibrated members
    report: Report,
    spread: Spread,
) -> Outcome:
    """Fits, cross-fits and scores every rule; each rule's candidate is chosen by cross-fitting (`nested`)."""
    memory = np.empty((len(stores), *sample.by_view[0].shape[1:]), np.float32)  # (M,K,P)
    whole = fit_candidates(sample, sample.truth, sights_of(None), max_sweeps, calibrate, memory)
    held_out = folds.of_image[sample.image]  # (P,)
    without = []
    for fold in range(folds.num):
        report(f"fitting {len(RULES)} rules without fold {fold + 1} of {folds.num}")
        truth = np.where(held_out == fold, np.uint8(255), sample.truth)
        without.append(fit_candidates(sample, truth, sights_of(fold), max_sweeps, calibrate, memory))
    del memory
    num = len(whole.ballots)
    ballots = [[*fitted.ballots, *whole.ballots] for fitted in without]
    counts = score_images(stores, ids, labels, ballots, report, "rules on val", fold_of=folds.of_image, spread=spread)
    outcome = Outcome({}, {}, {})
    for name in RULES:
        places = whole.of(name)
        crossed = [counts[b][:, v].astype(np.int64) for b, v in places]
        outcome.crossfitted[name], pick = nested(crossed, folds)
        b, v = places[pick]
        outcome.fitted[name] = counts[num + b][:, v].astype(np.int64)
        outcome.choices[name] = Choice(whole.ballots[b].look, whole.ballots[b].votes[v])
    return outcome


def fit_candidates(
    sample: FittingSample, truth: Labels, sights: Sights, max_sweeps: int, calibrate: bool, memory: Float
) -> Candidates:  # truth (P,); memory (M,K,P)
    """Every rule's candidates, fitted to the pixels that have a label in `truth`. Calibrated ones come before plain
    ones, so that the plain are chosen where both are as good (`choose_candidate`)."""
    looks = [(sights.plain, PLAIN), (sights.own, OWN_VIEWS), (sights.joint, JOINT)]
    if calibrate:
        looks.insert(0, (_calibrated(sample, truth, sights.joint), JOINT))
    ballots, rules = [], []
    for look, names in looks:
        q = sample.probabilities(look, memory)  # (m,K,P): of the members that are looked at
        fits = fit_rules(Sample(q, truth, best_member(q, truth, sample.strata), sample.strata, max_sweeps), names)
        votes = [_as_all(vote, look) for name in names for vote in fits[name]]
        ballots.append(Ballot(look, tuple(votes)))
        rules.append(tuple(name for name in names for _ in fits[name]))
    return Candidates(tuple(ballots), tuple(rules))


def _calibrated(sample: FittingSample, truth: Labels, look: Look) -> Look:
    """Each member with its temperature; without those that are best silenced, since what is left of them, a constant,
    would only add to every class's weight."""
    fitted = {m: fit_temperature(sample.rows(m, look.views[m]), truth, sample.strata) for m in look.members}
    heard = [m for m in look.members if fitted[m] < SILENT] or look.members
    num_members = range(len(look.views))
    return Look(
        tuple(look.views[m] if m in heard else () for m in num_members),
        tuple(fitted[m] if m in heard else 1.0 for m in num_members),
    )


def _as_all(vote: Vote, look: Look) -> Vote:
    """The vote of the members that are looked at, as one of all members."""
    weights = np.zeros((len(look.views), vote.weights.shape[1]), np.float32)  # (M,K)
    weights[look.members] = vote.weights
    return Vote(vote.kind, weights)
