"""How often each pixel of a fitting sample counts.

A sample that holds some kinds of pixels more densely than others must count the rarer ones more often, or its counts
estimate something else. Pixels that weigh the same lie side by side (a stratum), and weights are whole numbers: a
stratum's weight then costs no memory, and every count stays exact.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Strata:
    """Stratum s holds the pixels from `ends[s - 1]` (0 for the first) up to `ends[s]`; each counts `weights[s]`
    times."""

    ends: tuple[int, ...]
    weights: tuple[int, ...]

    def __post_init__(self) -> None:
        ascending = list(self.ends) == sorted(self.ends)
        if not ascending or len(self.ends) != len(self.weights) or min(self.weights, default=0) < 1:
            raise ValueError(
                f"strata need ascending ends and as many weights of at least 1, got {self.ends} and {self.weights}"
            )

    @property
    def arrays(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """ends, weights, each (S,): what the counting kernels take."""
        return np.array(self.ends, np.int64), np.array(self.weights, np.int64)

    def of(self, picked: NDArray[np.int64]) -> Strata:
        """Of the pixels at ascending positions `picked` alone."""
        return Strata(tuple(int(n) for n in np.searchsorted(picked, self.ends)), self.weights)

    def per_pixel(self) -> NDArray[np.int64]:
        """(P,) how often each pixel counts."""
        return np.repeat(np.array(self.weights, np.int64), np.diff((0, *self.ends)))


def of_pixels(strata: Strata | None, num_pixels: int) -> Strata:
    """`strata`, checked against the number of pixels; None stands for pixels that all count once."""
    if strata is None:
        return Strata((num_pixels,), (1,))
    if strata.ends[-1] != num_pixels:
        raise ValueError(f"strata must end at the last of {num_pixels} pixels, got {strata.ends}")
    return strata
