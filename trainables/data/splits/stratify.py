"""Deals units (groups of images) to parts so that each part has its share of every class.

Iterative stratification: Sechidis, Tsoumakas & Vlahavas 2011, algorithm 1, over units in place of examples, with the
pixels of the class as the first tie-break; then single moves lower the remaining deviation, since units differ in size
and a class's pixels are not where its images are.

Arrays have C = 2K + 1 columns: images that show each class (K), pixels of each class (K), images.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float64]
MAX_SWEEPS = 5
LACKING = 0.1  # the price of a class that a part lacks, beside squared shares; in the first part ten times dearer


def stratify(holds: Float, start: Float, target: Float, rng: np.random.Generator) -> NDArray[np.intp]:
    """The part of every unit: (J,). `holds` (J,C), `start` and `target` (S,C). Each part gets a unit where J >= S.

    The rarest class that is left goes first, and its units, largest first, each to the part that lacks most of it.
    """
    num_classes = (holds.shape[1] - 1) // 2
    chosen = np.full(len(holds), -1, dtype=np.intp)
    lacking = target - start  # (S,C)
    while (chosen < 0).any():
        left = holds[chosen < 0, :num_classes].sum(axis=0)  # (K,)
        rarest = int(np.argmin(np.where(left > 0, left, np.inf))) if (left > 0).any() else -1
        members = np.flatnonzero((chosen < 0) & (holds[:, rarest] > 0))
        pixels = rarest if rarest < 0 else num_classes + rarest
        for j in members[np.lexsort((rng.random(len(members)), -holds[members, pixels], -holds[members, rarest]))]:
            keys = (rng.random(len(lacking)), -lacking[:, pixels], -lacking[:, -1], -lacking[:, rarest])
            chosen[j] = np.lexsort(keys)[0]
            lacking[chosen[j]] -= holds[j]
    _fill_empty_parts(chosen, holds, start)
    _refine(chosen, holds, start, target, rng)
    return chosen


def _fill_empty_parts(chosen: NDArray[np.intp], holds: Float, start: Float) -> None:
    """Give an empty part the smallest unit of the part that has most units."""
    for s in range(len(start)):
        if start[s, -1] == 0 and not (chosen == s).any():
            donor = int(np.bincount(chosen, minlength=len(start)).argmax())
            members = np.flatnonzero(chosen == donor)
            chosen[members[np.argmin(holds[members, -1])]] = s


def _row_costs(sums: Float, target: Float, total: Float, lack_price: Float) -> Float:
    """Distance of the parts' sums (S,C) from the wanted ones, (S,): squared, as shares of each class, plus a price
    where a part shows no image of a class at all."""
    num_classes = (sums.shape[-1] - 1) // 2
    weight = np.ones(sums.shape[-1])
    weight[-1] = sums.shape[-1]  # the size of a part matters as much as all its classes together
    lacks = ((sums[:, :num_classes] == 0) & (target[:, :num_classes] > 0)).sum(axis=1)
    costs: Float = (weight * ((sums - target) / total) ** 2).sum(axis=1) + lack_price * lacks
    return costs


def _refine(chosen: NDArray[np.intp], holds: Float, start: Float, target: Float, rng: np.random.Generator) -> None:
    """Move single units while that lowers the deviation; changes `chosen`."""
    sums = start.copy()
    np.add.at(sums, chosen, holds)
    total = np.maximum(target.sum(axis=0), 1e-12)  # (C,)
    lack_price = np.full(len(sums), LACKING)
    lack_price[0] += 1.0  # the first part trains
    costs = _row_costs(sums, target, total, lack_price)  # (S,)
    for _ in range(MAX_SWEEPS):
        before = costs.sum()
        for j in rng.permutation(len(chosen)):
            source = chosen[j]
            if sums[source, -1] == holds[j, -1]:
                continue  # the part would be empty
            without = _row_costs(
                sums[source : source + 1] - holds[j],
                target[source : source + 1],
                total,
                lack_price[source : source + 1],
            )[0]
            change = _row_costs(sums + holds[j], target, total, lack_price) - costs + without - costs[source]
            change[source] = 0.0
            best = int(np.argmin(change))
            if change[best] < -1e-12:
                sums[source] -= holds[j]
                sums[best] += holds[j]
                chosen[j] = best
                costs = _row_costs(sums, target, total, lack_price)
        if costs.sum() >= before - 1e-12:
            return
