"""Fits every rule to val, as a whole and without each fold, and cross-fits it on all pixels of val.

Counts are (N,K,K) int64 per rule. No label of the hold-out is read here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from analysis.ensembling.crossfit import CrossfitFolds, Images, inner_folds, nested
from analysis.ensembling.options import EnsembleOptions
from analysis.ensembling.pixel_sampling import FittingSample
from analysis.ensembling.rules import CONTAINED, JOINT, OWN_VIEWS, PLAIN, RULES, UNCALIBRATED, Sample, fit_rules
from analysis.ensembling.temperature import SILENT, fit_temperature
from analysis.ensembling.view_selection import SelectedViews, ViewSelection
from analysis.voting.executor import Executor, Say
from analysis.voting.labelled_logits import LabelledLogits
from analysis.voting.score_images import score_images
from analysis.voting.view_config import ViewConfig, Views, VoteBatch
from analysis.voting.votes import Vote

Counts = NDArray[np.int64]
INNER_FOLDS = 3  # of a fit's own images
MIN_TO_CHOOSE = 5  # groups: with fewer, a share of shrinkage chosen by cross-fitting flips between none and all of it


@dataclass(frozen=True)
class Choice:
    """A rule as it is used: what it looks at, and how it votes."""

    view_config: ViewConfig
    vote: Vote

    @property
    def batch(self) -> VoteBatch:
        """Its vote alone, to be scored."""
        return VoteBatch(self.view_config, (self.vote,))

    @property
    def used_views(self) -> Views:
        """(M,): those of members that can change a label."""
        return tuple(views if m in self.vote.used else () for m, views in enumerate(self.view_config.views))


@dataclass(frozen=True)
class RuleCandidates:
    """Every rule's candidates: those of a batch see the same, and `rules[b][v]` is the rule of its vote v. Batches of
    a higher tier see more views. `unconverged` are the rules of which a search for weights ended while it gained."""

    batches: tuple[VoteBatch, ...]
    rules: tuple[tuple[str, ...], ...]
    tiers: tuple[int, ...]
    unconverged: frozenset[str] = frozenset()

    @property
    def names(self) -> list[str]:
        """The rules that have candidates, from plain to rich."""
        return [name for name in RULES if any(name in names for names in self.rules)]

    def of(self, name: str, *, halfway: bool = False) -> list[list[tuple[int, int]]]:
        """Where the candidates of a rule are: (batch, vote), by tier. `halfway`: of each batch, of candidates shrunk to
        different shares the one in the middle alone."""
        tiers: list[list[tuple[int, int]]] = [[] for _ in range(max(self.tiers) + 1)]
        for b, names in enumerate(self.rules):
            places = [(b, v) for v, one in enumerate(names) if one == name]
            if halfway and places:
                places = [places[len(places) // 2]]
            tiers[self.tiers[b]] += places
        return [places for places in tiers if places]

    def choice(self, place: tuple[int, int]) -> Choice:
        batch = self.batches[place[0]]
        return Choice(batch.view_config, batch.votes[place[1]])


@dataclass(frozen=True)
class RuleResults:
    """By rule: its cross-fitted counts (N,K,K), what is used, and what was used without each fold; and the rules whose
    search for weights ended while it gained."""

    crossfitted: dict[str, Counts]
    choices: dict[str, Choice]
    without: dict[str, tuple[Choice, ...]]
    unconverged: frozenset[str] = frozenset()


@dataclass(frozen=True)
class CrossFits:
    """Of all of val, and without each fold."""

    whole: RuleCandidates
    without: list[RuleCandidates]


def fit_folds(
    sample: FittingSample,
    selected: SelectedViews,
    folds: CrossfitFolds,
    images: Images,
    options: EnsembleOptions,
    say: Say,
) -> CrossFits:
    """Fits every rule's candidates."""
    without = []
    for fold, selection in enumerate(selected.without):
        say(f"fitting {len(_names(options))} rules without fold {fold + 1} of {folds.num}")
        without.append(fit_candidates(sample, folds.of_image != fold, selection, images, options))
    every = np.ones(folds.of_image.size, bool)
    return CrossFits(fit_candidates(sample, every, selected.whole, images, options), without)


def crossfit_rules(
    data: LabelledLogits, fits: CrossFits, folds: CrossfitFolds, images: Images, executor: Executor
) -> RuleResults:
    """Cross-fits every rule on all pixels of val; each rule's candidate is chosen by cross-fitting (`nested`)."""
    crossed = [fitted.batches for fitted in fits.without]
    counts = score_images(data, crossed, "rules on val, cross-fitted", fold_of=folds.of_image, executor=executor)
    results = RuleResults({}, {}, {}, fits.whole.unconverged)
    halfway = images.num_units < MIN_TO_CHOOSE
    for name in fits.whole.names:
        tiers = fits.whole.of(name, halfway=halfway)
        found = nested([[counts[b][:, v].astype(np.int64) for b, v in places] for places in tiers], folds, images)
        results.crossfitted[name] = found.counts
        results.choices[name] = fits.whole.choice(tiers[found.whole[0]][found.whole[1]])
        picks = zip(fits.without, found.by_fold, strict=True)
        results.without[name] = tuple(fit.choice(tiers[tier][place]) for fit, (tier, place) in picks)
    return results


def fit_candidates(
    sample: FittingSample,
    kept: NDArray[np.bool_],  # (N,)
    selection: ViewSelection,
    images: Images,
    options: EnsembleOptions,
) -> RuleCandidates:
    """Every rule's candidates, fitted to the pixels of the images that are `kept`. A rule that contains one of a single
    member has its candidates too: no rule loses to what it could have been. Calibrated ones come before plain
    ones, so that the plain are chosen where both are as good (`choose_candidate`)."""
    joint = [name for name in JOINT if name in _names(options)]
    calibrated = [name for name in joint if name not in UNCALIBRATED]
    view_configs: list[tuple[ViewConfig, Sequence[str], int]] = [
        (selection.plain, PLAIN, 0),
        (selection.own, OWN_VIEWS, 0),
    ]
    for tier, view_config in enumerate(selection.joint):
        if options.temperature == "auto":
            view_configs.append((_calibrated(sample.coarse, kept, view_config), calibrated, tier))
        view_configs.append((view_config, joint, tier))
    inner = inner_folds(images, kept, INNER_FOLDS)[sample.image]  # (P,)
    batches, rules = [], []
    done: dict[tuple[object, ...], dict[str, list[Vote]]] = {}
    unconverged: set[str] = set()
    for view_config, names, _ in view_configs:
        if (view_config, *names) not in done:  # the lean choice may be the fullest
            seen = Sample(sample.see(view_config, kept), options.max_sweeps, folds=inner, seed=images.seed)
            done[(view_config, *names)] = fit_rules(seen, names)
            unconverged |= {name for name, fit in seen.fits.items() if not fit.converged}
        fits = done[(view_config, *names)]
        found = [(name, vote) for name in names for vote in fits[name]]
        if names is PLAIN:
            found += [(richer, vote) for richer, plain in CONTAINED.items() for vote in fits[plain]]
        batches.append(VoteBatch(view_config, tuple(_as_all(vote, view_config) for _, vote in found)))
        rules.append(tuple(name for name, _ in found))
    tiers = tuple(tier for *_, tier in view_configs)
    return RuleCandidates(tuple(batches), tuple(rules), tiers, frozenset(unconverged))


def _names(options: EnsembleOptions) -> list[str]:
    """The rules that are offered, from plain to rich."""
    return [name for name in RULES if name != "stacked" or options.stacking == "auto"]


def _calibrated(sample: FittingSample, kept: NDArray[np.bool_], view_config: ViewConfig) -> ViewConfig:
    """Each member with its temperature; without those that are best silenced, since what is left of them, a constant,
    would only add to every class's weight."""
    truth = np.where(kept[sample.image], sample.truth, np.uint8(255))
    fitted = {
        m: fit_temperature(sample.rows(m, view_config.views[m]), truth, sample.strata) for m in view_config.members
    }
    heard = [m for m in view_config.members if fitted[m] < SILENT] or view_config.members
    num_members = range(len(view_config.views))
    return ViewConfig(
        tuple(view_config.views[m] if m in heard else () for m in num_members),
        tuple(fitted[m] if m in heard else 1.0 for m in num_members),
    )


def _as_all(vote: Vote, view_config: ViewConfig) -> Vote:
    """The vote of the members that are looked at, as one of all members."""
    weights = np.zeros((len(view_config.views), vote.weights.shape[1]), np.float32)  # (M,K)
    weights[view_config.members] = vote.weights
    return replace(vote, weights=weights)
