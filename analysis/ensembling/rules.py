"""The rules that combine members, from plain to rich, each fitted to the same sample.

A rule reads plain views (PLAIN), each member's own best ones (OWN_VIEWS) or those chosen together (JOINT). It returns
candidates: one vote, or, for a rule with fitted weights, one vote per share of shrinkage towards the plainer rule that
it extends. Cross-fitting chooses among them (`crossfit`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from analysis.voting.votes import Float, Vote, shrunk, single
from analysis.weight_search.coordinate_search import Fit, Free, fit_pixels
from analysis.weight_search.fit_stacker import fit_stacker
from analysis.weight_search.greedy_selection import best_member, select_members
from analysis.weight_search.pixels import Pixels

SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)  # of the plainer rule's weights; 1 is the plainer rule itself


@dataclass
class Sample:
    """What rules are fitted to, and what has been fitted to it so far."""

    pixels: Pixels
    max_sweeps: int = 20
    min_gain: float = 1e-5  # mIoU a sweep; less is below any noise of the sample
    folds: NDArray[np.int64] | None = None  # (P,) within this sample, by which a stacker's size is chosen
    seed: int = 0
    fits: dict[str, Fit] = field(default_factory=dict)

    @property
    def uniform(self) -> Float:
        return np.ones(self.pixels.shape, np.float32)

    @cached_property
    def alone(self) -> Float:
        """The best single member's weights."""
        return single(*self.pixels.shape, best_member(self.pixels))

    @property
    def singles(self) -> list[Float]:
        """Each member's weights alone."""
        return [single(*self.pixels.shape, m) for m in range(self.pixels.shape[0])]

    @cached_property
    def picked(self) -> Float:
        """Greedy selection's weights: a rule, and a start of another."""
        return select_members(self.pixels)

    @cached_property
    def absent(self) -> NDArray[np.bool_]:
        """(K,): classes that no pixel of the sample has."""
        return ~np.isin(np.arange(self.pixels.shape[1]), self.pixels.truth)

    def fit(self, name: str, starts: list[Float], free: Free, plain: Float) -> Float:
        """Fitted weights (M,K). A class that does not occur in the sample keeps its weights of the plainer vote, scaled
        as those of the other classes are: nothing was learnt about it."""
        fit = fit_pixels(self.pixels, starts, free, max_sweeps=self.max_sweeps, min_gain=self.min_gain)
        weights = fit.weights.copy()
        if free != "member":  # that has one weight per member for all classes
            scale = weights[:, ~self.absent].mean() / max(float(plain[:, ~self.absent].mean()), 1e-12)
            weights[:, self.absent] = scale * plain[:, self.absent]
        self.fits[name] = replace(fit, weights=weights)
        return weights


def _shrinkages(weights: Float, plain: Float) -> list[Vote]:
    return [Vote("soft", shrunk(weights, plain, share)) for share in SHARES]


def best_single(sample: Sample) -> list[Vote]:
    return [Vote("soft", sample.alone)]


def _alone_class(sample: Sample) -> Float:
    """Weights (M,K) of the best member alone, its classes weighted."""
    return sample.fit("best_single_class", [sample.alone], "class", sample.alone)


def best_single_class(sample: Sample) -> list[Vote]:
    return _shrinkages(_alone_class(sample), sample.alone)


def best_single_views(sample: Sample) -> list[Vote]:
    """The model that has the highest mIoU on val when each is seen through its own best views: `sample` is of those,
    and the model need not be the one that is best in its plain view."""
    return [Vote("soft", sample.alone)]


def hard_vote(sample: Sample) -> list[Vote]:
    return [Vote("hard", sample.uniform)]


def soft_vote(sample: Sample) -> list[Vote]:
    return [Vote("soft", sample.uniform)]


def geometric_mean(sample: Sample) -> list[Vote]:
    return [Vote("geometric", sample.uniform)]


def greedy(sample: Sample) -> list[Vote]:
    return [Vote("soft", sample.picked)]


def soft_class(sample: Sample) -> list[Vote]:
    return _shrinkages(sample.fit("soft_class", [sample.uniform], "class", sample.uniform), sample.uniform)


def member(sample: Sample) -> list[Vote]:
    starts = [sample.uniform, sample.picked, *sample.singles]
    return _shrinkages(sample.fit("member", starts, "member", sample.uniform), sample.uniform)


def member_class(sample: Sample) -> list[Vote]:
    """Starts where the plainer fits ended, so that on the sample it is at least as good as each of them, and from
    uniform: which start ends highest differs from sample to sample. Shrinks towards the soft vote with class weights,
    since equal weights hurt where members are unequal (docs/LOG.md)."""
    plain = sample.fits["soft_class"].weights
    starts = [plain, sample.fits["member"].weights, _alone_class(sample), sample.uniform]
    return _shrinkages(sample.fit("member_class", starts, "member_class", plain), plain)


def stacked(sample: Sample) -> list[Vote]:
    """Every share takes as much off the stacker's correction as off the class weights: the last candidate is the
    geometric mean."""
    stacker = fit_stacker(sample.pixels, sample.folds, sample.seed)
    pixels = Pixels(stacker.probabilities(sample.pixels.q)[None], sample.pixels.truth, sample.pixels.strata)
    one = Sample(pixels, sample.max_sweeps, sample.min_gain)
    weights = one.fit("stacked", [one.uniform], "class", one.uniform)
    sample.fits["stacked"] = one.fits["stacked"]
    rows = ((share, shrunk(weights, one.uniform, share)) for share in SHARES)
    num_members = sample.pixels.shape[0]
    return [Vote("stacked", np.repeat(row, num_members, 0), stacker.at_strength(1 - share)) for share, row in rows]


# from plain to rich: the order in which they are fitted, and in which the plainer of equals is taken
RULES: dict[str, Callable[[Sample], list[Vote]]] = {
    "best_single": best_single,
    "best_single_class": best_single_class,
    "best_single_views": best_single_views,
    "hard_vote": hard_vote,
    "soft_vote": soft_vote,
    "geometric_mean": geometric_mean,
    "greedy": greedy,
    "soft_class": soft_class,
    "member": member,
    "member_class": member_class,
    "stacked": stacked,
}

PLAIN = ("best_single", "best_single_class")  # see the plain view of one model
OWN_VIEWS = ("best_single_views",)  # sees each model through its own best views
JOINT = tuple(name for name in RULES if name not in (*PLAIN, *OWN_VIEWS))  # see the views that were chosen together
UNCALIBRATED = ("stacked",)  # not offered again on calibrated members: they scale log probabilities themselves

# rule -> the one of a single member that it contains: what that one is is among its candidates, in that one's views
CONTAINED = {"member": "best_single", "member_class": "best_single_class"}


def fit_rules(sample: Sample, names: Sequence[str]) -> dict[str, list[Vote]]:
    """The candidates of these rules, fitted to the sample. Raises ValueError where no pixel of it has a label."""
    return {name: RULES[name](sample) for name in names}
