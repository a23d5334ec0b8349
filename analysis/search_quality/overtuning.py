"""What the best of several models owes to the images and the seed that chose it, and which smaller model is as good
within one standard error.

The estimate is the bootstrap's of the optimism of a choice (Efron and Tibshirani 1993, chapter 17; of the best of
several models: Tibshirani and Tibshirani 2009, "A bias correction for the minimum error rate in cross-validation"): the
best of a resample scores there what it scores, and on all images, which stand for new ones, less. Where all models are
equally good it says two thirds of the truth, since chance has already set the measured scores apart; where one is
clearly best, all of it. Only the models given count: trials that never became candidates were beaten as well, so more
was owed to chance than this says.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Scores = NDArray[np.float64]


@dataclass(frozen=True)
class Contender:
    """A model that could have been chosen."""

    name: str
    miou: float
    params_m: float | None  # millions; None: not known
    behind: float  # the winner, mIoU
    error: float  # standard error of `behind`, over images and seeds; 0 of the winner

    @property
    def is_near(self) -> bool:
        """Within one standard error of the winner."""
        return self.behind <= self.error


@dataclass(frozen=True)
class Overtuning:
    """The contenders, best first, and what the choice of the first is worth on new images and under a new seed."""

    contenders: tuple[Contender, ...]
    expected: float  # mIoU of the winner
    regret: float  # mIoU that such a choice loses against the contender that is truly best, expected
    with_seeds: bool  # else only the images' part is known

    @property
    def winner(self) -> Contender:
        return self.contenders[0]

    @property
    def optimism(self) -> float:
        """By how much the winner's score flatters it."""
        return self.winner.miou - self.expected

    @property
    def pick(self) -> Contender:
        """The smallest contender within one standard error of the winner (Breiman et al. 1984, section 3.4.3); the
        winner where none is smaller. Of equal sizes the best."""
        near = [one for one in self.contenders if one.is_near and one.params_m is not None]
        known = self.winner.params_m is not None
        return min(near, key=lambda one: one.params_m or 0.0) if known else self.winner

    def describe(self) -> str:
        """What a reader of the winner's score has to know."""
        best, new = self.winner, "new images and under a new seed" if self.with_seeds else "new images"
        unknown = "" if self.with_seeds else "; what it owes to its seed was not measured (search.noise_repeats)"
        return (
            f"the best candidate, {best.name}, scores {best.miou:.4f}, and {self.expected:.4f} is expected on {new}: "
            f"being the best of {len(self.contenders)} flatters it by {self.optimism:.4f}, and the truly best of "
            f"them is expected to be {self.regret:.4f} better{unknown}"
        )


def estimate_overtuning(
    names: Sequence[str],
    mious: Scores,  # (M,)
    resampled: Scores,  # (R,M): of the same resamples
    params_m: Sequence[float | None],
    *,
    seed_spread: float | None,
    seed: int,
) -> Overtuning:
    """Compares M models by their scores on all images and on R resamples of them.

    `seed_spread` is the standard deviation of a score over seeds, None where it was not measured. Raises ValueError for
    fewer than two models, or resamples without a score.
    """
    if len(names) < 2 or not np.isfinite(resampled).all():
        raise ValueError(
            f"overtuning is estimated from at least two models whose resamples have scores, got {len(names)} models "
            "and " + ("all scores" if np.isfinite(resampled).all() else "resamples without a score")
        )
    order = np.argsort(-mious, kind="stable")
    mious, resampled = mious[order], resampled[:, order]
    spread = seed_spread or 0.0
    errors = resampled - resampled.mean(axis=0)
    errors = errors + spread * np.random.default_rng(seed).standard_normal(errors.shape)
    gaps = np.hypot((resampled[:, :1] - resampled).std(axis=0), math.sqrt(2) * spread)  # (M,)
    chosen = (mious + errors).argmax(axis=1)  # (R,)
    optimism = float(errors[np.arange(len(errors)), chosen].mean())
    regret = float((mious[0] - mious[chosen]).mean())
    contenders = (
        Contender(names[m], float(mious[i]), params_m[m], float(mious[0] - mious[i]), float(gaps[i]) if i else 0.0)
        for i, m in enumerate(order.tolist())
    )
    return Overtuning(tuple(contenders), float(mious[0]) - optimism, regret, seed_spread is not None)
