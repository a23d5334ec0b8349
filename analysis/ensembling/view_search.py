"""Chooses members and their views together: a greedy search over (member, view) pairs, weights included.

Input is a sample's probabilities per pair (R,K,P) float32, labels (P,) uint8 (255: ignored), how often each pixel
counts (P,), and the cost of each pair per image; output is a path of ensembles, each with its cost and mIoU. An
ensemble here is a member's mean over its chosen views, times the member's weight, so it is linear in the pairs: shares
(R,) describe it. Every step adds the pair that gains most (or most for its cost: the two greedy orders bound each
other's worst case, Leskovec et al. 2007, "Cost-effective outbreak detection", section 3.2), refits the members'
weights, and drops every pair that can go without loss. mIoU rises with every step. Ties go to the lower pair: no seed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numba
import numpy as np
from numpy.typing import NDArray

from analysis.voting.votes import BLOCK, Float, Labels
from trainables.metrics import miou

MIN_GAIN = 1e-5  # mIoU; less is below any noise of the sample
NEW_SHARES = (1.0, 0.5, 0.25)  # of the other members' mean weight, at which a new member is tried
FACTORS = (0.5, 0.7, 1.4, 2.0)  # by which a member's weight is tried to move
SWEEPS = 2


@dataclass(frozen=True)
class Pairs:
    """What is chosen from: pair r is view `views[r]` of member `members[r]` and costs `costs[r]` an image."""

    members: tuple[int, ...]
    views: tuple[str, ...]
    costs: tuple[float, ...]

    def of(self, member: int) -> list[int]:
        return [r for r, m in enumerate(self.members) if m == member]


@dataclass(frozen=True)
class WeighedPixels:
    """What a path is searched on."""

    q: Float  # (R,K,P): each pair's probabilities
    truth: Labels  # (P,)
    times: NDArray[np.int32]  # (P,): how often each pixel counts


@dataclass(frozen=True)
class Step:
    """An ensemble on the path: `shares[r]` is what pair r's probabilities are multiplied by."""

    pairs: tuple[int, ...]  # in the order in which they were chosen
    shares: Float  # (R,), 0 for the pairs that it does not use
    cost: float
    miou: float  # of the sample


@numba.njit(cache=True, nogil=True, error_model="numpy", fastmath=False)
def _count_sum(total, delta, factor, truth, times, out):  # type: ignore[no-untyped-def] # (K,P) x2, (P,) x2 -> adds to (K,K)
    """Counts the argmax of total + factor * delta."""
    best, who = np.empty(BLOCK, np.float32), np.empty(BLOCK, np.int32)
    for start in range(0, truth.size, BLOCK):
        size = min(BLOCK, truth.size - start)
        best[:] = -np.float32(np.inf)
        who[:] = 0
        for k in range(total.shape[0]):
            so_far, more = total[k, start : start + size], delta[k, start : start + size]
            for i in range(size):
                score = so_far[i] + factor * more[i]
                better = score > best[i]
                best[i] = score if better else best[i]
                who[i] = np.int32(k) if better else who[i]
        for i in range(size):
            if truth[start + i] != 255:
                out[truth[start + i], who[i]] += times[start + i]


@dataclass
class _Ensemble:
    """The ensemble as it grows; `total` (K,P) are its scores."""

    pixels: WeighedPixels
    pairs: Pairs
    views: dict[int, list[int]] = field(default_factory=dict)  # member -> its pairs
    weights: dict[int, float] = field(default_factory=dict)
    miou: float = 0.0

    def __post_init__(self) -> None:
        self.total = np.zeros(self.pixels.q.shape[1:], np.float32)
        self.order: list[int] = []

    @property
    def cost(self) -> float:
        return sum(self.pairs.costs[r] for r in sorted(self.order))  # summed in one order, whatever the path

    @property
    def step(self) -> Step:
        shares = np.zeros(len(self.pixels.q), np.float32)
        for m, rows in self.views.items():
            shares[rows] = self.weights[m] / len(rows)
        return Step(tuple(self.order), shares, self.cost, self.miou)

    def mean(self, rows: Iterable[int]) -> Float:
        rows = list(rows)
        q = self.pixels.q
        out: Float = q[rows[0]] if len(rows) == 1 else q[rows].mean(0)
        return out

    def score(self, delta: Float, factor: float) -> float:
        num_classes = self.pixels.q.shape[1]
        counts = np.zeros((num_classes, num_classes), np.int64)
        _count_sum(self.total, delta, np.float32(factor), self.pixels.truth, self.pixels.times, counts)
        return float(miou(counts))

    def with_pair(self, row: int) -> tuple[float, float]:
        """The mIoU with one more pair, and the weight of its member then."""
        m = self.pairs.members[row]
        if m in self.views:
            change = self.pixels.q[row] - self.mean(self.views[m])
            return self.score(change, self.weights[m] / (len(self.views[m]) + 1)), self.weights[m]
        level = float(np.mean(list(self.weights.values()))) if self.weights else 1.0
        tries = [level * share for share in (NEW_SHARES if self.weights else (1.0,))]
        scores = [self.score(self.pixels.q[row], weight) for weight in tries]
        best = int(np.argmax(scores))
        return scores[best], tries[best]

    def add(self, row: int, weight: float) -> None:
        m = self.pairs.members[row]
        self.views.setdefault(m, []).append(row)
        self.weights[m] = weight
        self.order.append(row)
        self._settle()

    def refit(self) -> None:
        """Moves each member's weight to the best of a few values, where mIoU rises."""
        for _ in range(SWEEPS if len(self.views) > 1 else 0):
            for m in sorted(self.views):
                mean, weight = self.mean(self.views[m]), self.weights[m]
                scores = [self.score(mean, (factor - 1) * weight) for factor in FACTORS]
                if max(scores) > self.miou:
                    self.weights[m] = FACTORS[int(np.argmax(scores))] * weight
                    self._settle()

    def drop(self, kept: int) -> None:
        """Drops, dearest first, every pair but `kept` without which mIoU is no lower."""
        for row in sorted(self.order, key=lambda r: (-self.pairs.costs[r], r)):
            m = self.pairs.members[row]
            rest = [r for r in self.views[m] if r != row]
            if row == kept or len(self.order) == 1:
                continue
            without = self.mean(rest) - self.mean(self.views[m]) if rest else self.mean(self.views[m])
            if self.score(without, self.weights[m] if rest else -self.weights[m]) >= self.miou:
                self.order.remove(row)
                self.views[m] = rest
                if not rest:
                    del self.views[m], self.weights[m]
                self._settle()

    def _settle(self) -> None:
        """The scores and mIoU from scratch: no rounding piles up."""
        self.total[:] = 0
        for m in sorted(self.views):
            self.total += np.float32(self.weights[m]) * self.mean(self.views[m])
        self.miou = self.score(self.total, 0.0)


def search_path(
    pixels: WeighedPixels,
    pairs: Pairs,
    *,
    budget: float | None = None,
    per_cost: bool = False,
    start: Sequence[int] = (),
    among: Sequence[int] | None = None,
) -> list[Step]:
    """Ensembles of ever higher mIoU on the sample, each within the budget, from that of the pairs `start`.

    `among` are the pairs that may be added, all where None. Ends where no pair gains; empty where none fits.
    """
    found = _Ensemble(pixels, pairs)
    path: list[Step] = []
    for row in start:
        found.add(row, 1.0)
    if start:
        found.refit()
        path.append(found.step)
    rows = range(len(pixels.q)) if among is None else among
    for _ in range(2 * len(pixels.q)):
        spare = float("inf") if budget is None else budget - found.cost
        fitting = [r for r in rows if r not in found.order and pairs.costs[r] <= spare]
        tried = {r: found.with_pair(r) for r in fitting}
        least = MIN_GAIN if found.order else -1.0  # the first pair is taken in any case
        gains = {r: score - found.miou for r, (score, _) in tried.items() if score - found.miou > least}
        if not gains:
            break
        row = max(gains, key=lambda r: (gains[r] / (pairs.costs[r] if per_cost else 1.0), -r))
        found.add(row, tried[row][1])
        found.refit()
        found.drop(row)
        path.append(found.step)
    return path
