"""How much the seed alone changes a recipe's score, and so which differences between trials are ties.

The repeatability limit of ISO 5725-6:1994, section 4.1: two results under equal conditions differ by less than
1.96 * sqrt(2) standard deviations in 95% of the cases.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import Field, ValidationError
from scipy.stats import norm

from trainables.recipe.config import Config

REPEATABILITY = 1.96 * math.sqrt(2)


class NoiseFloor(Config):
    """noise.json: mIoU on val, at the last epoch, of one recipe under several seeds."""

    trial: str  # whose recipe it is
    seeds: Annotated[tuple[int, ...], Field(min_length=2)]
    mious: tuple[float, ...]

    @property
    def spread(self) -> float:
        """The standard deviation over seeds."""
        return float(np.std(self.mious, ddof=1))

    @property
    def limit(self) -> float:
        """Differences in mIoU below it are ties."""
        return REPEATABILITY * self.spread

    def ties(self, mious: Mapping[str, float]) -> list[str]:
        """The trials, by name, that lie less than the limit below the best one, best first; it is one of them."""
        best = max(mious.values())
        near = (name for name, miou in mious.items() if miou == best or best - miou < self.limit)
        return sorted(near, key=lambda name: -mious[name])

    def optimism(self, num_ties: int) -> float:
        """By how much the best of so many equal trials scores too high, expected: the largest of as many standard
        normal numbers (Blom 1958, Statistical Estimates and Transformed Beta-Variables, eq. 6.10.6) times the
        spread."""
        return self.spread * float(norm.ppf((num_ties - 0.375) / (num_ties + 0.25))) if num_ties > 1 else 0.0

    def describe(self, mious: Mapping[str, float]) -> str:
        """A sentence about the trials of a search, by name."""
        ties = self.ties(mious)
        listed = ", ".join(f"{miou:.4f}" for miou in self.mious)
        told = f"{len(ties)} trials are ties with the best one: {', '.join(ties)}; its lead flatters it by about "
        return (
            f"trial {self.trial}'s recipe under {len(self.seeds)} seeds scores {listed} on val: differences below "
            f"{self.limit:.4f} mIoU are ties; "
            + (f"{told}{self.optimism(len(ties)):.4f}" if len(ties) > 1 else "no trial is a tie with the best one")
        )


def read_noise_floor(path: Path) -> NoiseFloor | None:
    """None where the stage was off. Raises ValueError for a file that is none."""
    if not path.exists():
        return None
    try:
        return NoiseFloor.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise ValueError(f"{path} must be a noise floor, got {error.errors()[0]['msg']}; remove it") from error
