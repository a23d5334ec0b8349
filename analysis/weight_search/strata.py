"""How often each pixel of a fitting sample counts.

A sample that holds some kinds of pixels more densely than others must count the rarer ones more often, or its counts
estimate something else. Pixels that weigh the same lie side by side (a stratum), and weights are whole numbers: a
stratum's weight then costs no memory, and every count stays exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

T = TypeVar("T", bound=np.generic)


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


def in_a_row(strata: Sequence[Strata]) -> Strata:
    """Of parts of a sample, each in the same strata, taken as one: stratum by stratum, and in each part by part."""
    sizes = np.sum([np.diff((0, *part.ends)) for part in strata], axis=0)
    return Strata(tuple(np.cumsum(sizes).tolist()), strata[0].weights)


def join(values: Sequence[NDArray[T]], strata: Sequence[Strata]) -> NDArray[T]:
    """The parts' values (..,P), in the order of `in_a_row`."""
    begins = [(0, *part.ends[:-1]) for part in strata]
    pieces = [
        one[..., begin[s] : part.ends[s]]
        for s in range(len(strata[0].ends))
        for one, part, begin in zip(values, strata, begins, strict=True)
    ]
    return np.concatenate(pieces, axis=-1)


def firsts(sizes: NDArray[np.int64], step: int) -> list[list[int]]:
    """Where in each part's strata, which have `sizes` (parts,S) pixels, to begin so that all take every `step`-th pixel
    of the whole `in_a_row`: which pixels are taken does not depend on how they are parted."""
    flat = sizes.T.reshape(-1)
    begins = (np.cumsum(flat) - flat).reshape(sizes.T.shape).T  # (parts,S)
    return [[int(begin) for begin in row] for row in -begins % step]
