"""Every rule fitted to val, as a whole and without each fold, and scored on all pixels of val.

Enters: the fitting sample (`Pool`), what the rules of each fit look at (`Sights`), stores and labels of val. Leaves:
counts (N,K,K) int64 a rule, fitted and cross-fitted, and the rule's chosen candidate. No label of the hold-out is read
here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from analysis.ensembling.crossfit import Folds, Images, nested
from analysis.ensembling.pixel_sampling import FittingSample
from analysis.ensembling.rules import JOINT, OWN_VIEWS, PLAIN, RULES, Sample, fit_rules
from analysis.ensembling.temperature import SILENT, fit_temperature
from analysis.ensembling.view_selection import Sighted, Sights
from analysis.voting.executor import Spread
from analysis.voting.score_images import LabelSource, Report, score_images
from analysis.voting.view_config import Ballot, Look, Views
from analysis.voting.votes import Vote
from trainables.logits.store import LogitStore

Counts = NDArray[np.int64]


@dataclass(frozen=True)
class Choice:
    """A rule as it is used: what it looks at, and how it votes."""

    look: Look
    vote: Vote

    @property
    def used_views(self) -> Views:
        """(M,): those of members that can change a label."""
        return tuple(views if m in self.vote.used else () for m, views in enumerate(self.look.views))


@dataclass(frozen=True)
class Candidates:
    """Every rule's candidates: those of a ballot see the same, and `rules[b][v]` is the rule of its vote v. Ballots of
    a higher tier see more views."""

    ballots: tuple[Ballot, ...]
    rules: tuple[tuple[str, ...], ...]
    tiers: tuple[int, ...]

    def of(self, name: str) -> list[list[tuple[int, int]]]:
        """Where the candidates of a rule are: (ballot, vote), by tier."""
        found = [
            [(b, v) for b, names in enumerate(self.rules) for v in range(len(names))
             if self.tiers[b] == tier and names[v] == name]
            for tier in range(max(self.tiers) + 1)
        ]  # fmt: skip
        return [places for places in found if places]

    def choice(self, place: tuple[int, int]) -> Choice:
        ballot = self.ballots[place[0]]
        return Choice(ballot.look, ballot.votes[place[1]])


@dataclass(frozen=True)
class Outcome:
    """By rule: its counts (N,K,K) fitted on all of val, those fitted without each image's fold, what is used, and what
    was without each fold."""

    fitted: dict[str, Counts]
    crossfitted: dict[str, Counts]
    choices: dict[str, Choice]
    without: dict[str, tuple[Choice, ...]]


@dataclass(frozen=True)
class Fits:
    """Of all of val, and without each fold."""

    whole: Candidates
    without: list[Candidates]


def fit_folds(
    sample: FittingSample,
    sighted: Sighted,
    folds: Folds,
    max_sweeps: int,
    calibrate: bool,  # offer each joint rule its candidates again, on calibrated members
    report: Report,
) -> Fits:
    """Fits every rule's candidates."""
    without = []
    for fold, sights in enumerate(sighted.without):
        report(f"fitting {len(RULES)} rules without fold {fold + 1} of {folds.num}")
        without.append(fit_candidates(sample, folds.of_image != fold, sights, max_sweeps, calibrate))
    every = np.ones(folds.of_image.size, bool)
    return Fits(fit_candidates(sample, every, sighted.whole, max_sweeps, calibrate), without)


def score_val(
    stores: Sequence[LogitStore],
    ids: Sequence[str],
    labels: LabelSource,
    fits: Fits,
    folds: Folds,
    images: Images,
    report: Report,
    spread: Spread,
) -> Outcome:
    """Cross-fits and scores every rule; each rule's candidate is chosen by cross-fitting (`nested`)."""
    whole = fits.whole
    crossed = [fitted.ballots for fitted in fits.without]
    counts = score_images(
        stores, ids, labels, crossed, report, "rules on val, cross-fitted", fold_of=folds.of_image, spread=spread
    )
    outcome = Outcome({}, {}, {}, {})
    for name in RULES:
        tiers = whole.of(name)
        found = nested([[counts[b][:, v].astype(np.int64) for b, v in places] for places in tiers], folds, images)
        outcome.crossfitted[name] = found.counts
        outcome.choices[name] = whole.choice(tiers[found.whole[0]][found.whole[1]])
        picks = zip(fits.without, found.by_fold, strict=True)
        outcome.without[name] = tuple(fit.choice(tiers[tier][place]) for fit, (tier, place) in picks)
    ballots = [Ballot(choice.look, (choice.vote,)) for choice in outcome.choices.values()]
    fitted = score_images(stores, ids, labels, [ballots], report, "rules on val, fitted", spread=spread)
    outcome.fitted.update({name: one[:, 0].astype(np.int64) for name, one in zip(RULES, fitted, strict=True)})
    return outcome


def fit_candidates(
    sample: FittingSample, kept: NDArray[np.bool_], sights: Sights, max_sweeps: int, calibrate: bool
) -> Candidates:  # kept (N,)
    """Every rule's candidates, fitted to the pixels of the images that are `kept`. Calibrated ones come before plain
    ones, so that the plain are chosen where both are as good (`choose_candidate`)."""
    looks = [(sights.plain, PLAIN, 0), (sights.own, OWN_VIEWS, 0)]
    for tier, look in enumerate(sights.joint):
        calibrated = [(_calibrated(sample.coarse, kept, look), JOINT, tier)] if calibrate else []
        looks += [*calibrated, (look, JOINT, tier)]
    ballots, rules = [], []
    for look, names, _ in looks:
        fits = fit_rules(Sample(sample.see(look, kept), max_sweeps), names)
        votes = [_as_all(vote, look) for name in names for vote in fits[name]]
        ballots.append(Ballot(look, tuple(votes)))
        rules.append(tuple(name for name in names for _ in fits[name]))
    return Candidates(tuple(ballots), tuple(rules), tuple(tier for *_, tier in looks))


def _calibrated(sample: FittingSample, kept: NDArray[np.bool_], look: Look) -> Look:
    """Each member with its temperature; without those that are best silenced, since what is left of them, a constant,
    would only add to every class's weight."""
    truth = np.where(kept[sample.image], sample.truth, np.uint8(255))
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
