"""A portfolio: the few recipes of which, on every data set, one does well.

Each data set's scores are scaled to [0, 1]; what a set of recipes is worth there is its best one, and overall the mean
over data sets. That is monotone and submodular, so taking the recipe that adds most, again and again, reaches at least
1 - 1/e of what the best set of that size is worth (Nemhauser, Wolsey and Fisher, 1978). Portfolios of hyper-parameters
in this way: Wistuba, Schilling and Schmidt-Thieme, Sequential model-free hyperparameter tuning, ICDM 2015; Feurer et
al., Auto-sklearn 2.0, JMLR 23, 2022, section 3.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

Scores = NDArray[np.float64]
LEAST_GAIN = 1e-12  # less is the rounding of a mean


def normalised(mious: Mapping[str, Mapping[str, float]]) -> tuple[list[str], Scores]:
    """{data set: {recipe: mIoU}} -> recipes (C,), scores (C,D): 1 for the best of a data set, 0 for the worst, and for
    a recipe that did not run to its end there. From the highest mean over the data sets to the lowest."""
    recipes = sorted({recipe for found in mious.values() for recipe in found})
    scores = np.zeros((len(recipes), len(mious)))
    for d, found in enumerate(mious.values()):
        low, high = min(found.values()), max(found.values())
        for recipe, miou in found.items():
            scores[recipes.index(recipe), d] = (miou - low) / (high - low) if high > low else 1.0
    order = np.argsort(-scores.mean(axis=1), kind="stable")
    return [recipes[c] for c in order], scores[order]


def greedy(scores: Scores, size: int) -> list[tuple[int, float]]:
    """scores (C,D) -> (row, what all rows so far are worth) for at most `size` rows; fewer where no other adds to it.
    Of equals the first is taken."""
    best, chosen, worth = np.zeros(scores.shape[1]), list[tuple[int, float]](), 0.0
    while len(chosen) < size:
        together = np.maximum(scores, best).mean(axis=1)  # (C,)
        row = int(np.argmax(together))
        if chosen and together[row] <= worth + LEAST_GAIN:
            break
        worth, best = float(together[row]), np.maximum(scores[row], best)
        chosen.append((row, worth))
    return chosen
