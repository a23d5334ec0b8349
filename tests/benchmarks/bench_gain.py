"""Whether a search pays that optimises what a trial adds to the ensemble, in place of its mIoU; replayed.

    python tests/benchmarks/bench_gain.py [--seeds 20] [--budget 1080]

Trials have predictions whose errors correlate by family and settings (`replay.members`). One search per seed and
objective at equal epochs, ASHA on mIoU in both: `mIoU` is the product's; under `gain` the study is told, for a trial
that reached its last epoch, the mIoU that it adds to the greedily selected ensemble of those before it. Six candidates
are taken by mIoU (at most three per family: the product's way) or greedily by gain; greedy selection on val weighs
them. Told is the hold-out mIoU, and its difference from the product's way: medians over seeds, 95% bootstrap intervals.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import optuna
from bench_search import MAX_EPOCHS, NUM_WORKERS, interval, per_family, space_of
from numpy.typing import NDArray
from optuna.storages import InMemoryStorage
from replay.curves import PowerLaws
from replay.members import Floats, Members, greedy, score
from replay.simulator import Recipe, Replay
from typing_extensions import override

from search.engine.searcher import FamilySearch
from trainables.ray_trainable import METRIC
from trainables.recipe.recipe import backbone_family

NUM_CANDIDATES, MAX_PER_FAMILY = 6, 3


class Pool:
    """The trials that reached their last epoch, in that order, and the truth (P,) at the pixels that they predict, of
    which the first `num_val` are val's."""

    def __init__(self, num_val: int, truth: NDArray[np.uint8]) -> None:
        self.num_val, self.truth = num_val, truth
        self.recipes, self.mious = list[Recipe](), list[float]()
        self.q = list[Floats]()  # each (K,P), val and hold-out

    def add(self, recipe: Recipe, q: Floats, val_miou: float) -> None:
        self.recipes.append(recipe)
        self.q.append(q)
        self.mious.append(val_miou)

    def val(self, which: Sequence[int]) -> Floats:
        return np.stack([self.q[n][:, : self.num_val] for n in which])

    def last_gain(self) -> float:
        """What the last one adds, on val, to the ensemble of the others, as one more equal vote."""
        truth = self.truth[: self.num_val]
        everyone = self.val(range(len(self.q)))
        if len(self.q) == 1:
            return score(everyone, np.ones(everyone.shape[:2], np.float32), truth)
        weights = greedy(everyone[:-1], truth)
        before = score(everyone[:-1], weights, truth)
        one_more = np.vstack([weights, np.ones((1, weights.shape[1]), np.float32)])
        return score(everyone, one_more, truth) - before

    def by_miou(self) -> list[int]:
        order = sorted(range(len(self.recipes)), key=lambda n: -self.mious[n])
        return self._within(order)

    def by_gain(self) -> list[int]:
        """The best single one, then whichever adds most to the equal vote of those taken."""
        taken, truth = self.by_miou()[:1], self.truth[: self.num_val]
        while len(taken) < min(NUM_CANDIDATES, len(self.q)):
            rest = [n for n in range(len(self.q)) if n not in taken and self._within([*taken, n]) == [*taken, n]]
            if not rest:
                break
            ones = np.ones((len(taken) + 1, self.q[0].shape[0]), np.float32)
            taken.append(max(rest, key=lambda n: score(self.val([*taken, n]), ones, truth)))
        return taken

    def _within(self, order: Sequence[int]) -> list[int]:
        families: Counter[str] = Counter()
        taken = []
        for n in order:
            family = backbone_family(self.recipes[n]["backbone"]["name"])
            if len(taken) < NUM_CANDIDATES and families[family] < MAX_PER_FAMILY:
                taken.append(n)
                families[family] += 1
        return taken

    def holdout(self, candidates: Sequence[int]) -> float:
        weights = greedy(self.val(candidates), self.truth[: self.num_val])
        return score(np.stack([self.q[n][:, self.num_val :] for n in candidates]), weights, self.truth[self.num_val :])


class ObjectiveSearch(FamilySearch):
    """Fills a pool; tells the study the gain in place of the mIoU where `by_gain` is set."""

    def __init__(self, members: Members, pool: Pool, by_gain: bool) -> None:
        super().__init__(space_of(members.task), storage=InMemoryStorage(), metric=METRIC)  # type: ignore[arg-type]
        self.members, self.pool, self.by_gain = members, pool, by_gain

    @override
    def _tell(self, number: int, outcome: str) -> None:
        if outcome == "COMPLETE":
            recipe = self._trials[number].user_attrs["identity"]["recipe"]
            self.pool.add(recipe, self.members.probabilities(recipe), self.members.val_miou(recipe))
        if outcome != "COMPLETE" or not self.by_gain:
            return super()._tell(number, outcome)
        self.study.tell(self._trials.pop(number), self.pool.last_gain())
        self.outcomes[number] = outcome
        return None


def search(seed: int, budget: int, by_gain: bool) -> dict[str, float]:
    """way of choosing candidates -> hold-out mIoU; of the best single model too."""
    members = Members(PowerLaws("slow_best", seed, MAX_EPOCHS))
    pool = Pool(members.num_val_pixels, members.truth)
    searcher, scheduler = ObjectiveSearch(members, pool, by_gain), per_family(members.task, budget)
    run = Replay(searcher, scheduler, members, num_workers=NUM_WORKERS, num_ahead=1)
    for _, _ in zip(range(budget), run.epochs(), strict=False):
        pass
    ways = {"by mIoU": pool.by_miou(), "by gain": pool.by_gain()}
    ways |= {"single": ways["by mIoU"][:1], "all by greedy selection": list(range(len(pool.q)))}
    return {name: pool.holdout(candidates) for name, candidates in ways.items()} | {"whole trials": len(pool.q)}


def run(num_seeds: int = 20, budget: int = 40 * MAX_EPOCHS) -> dict[str, Any]:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    begun_s = time.perf_counter()
    found = {
        objective: [search(seed, budget, objective == "gain") for seed in range(num_seeds)]
        for objective in ("mIoU", "gain")
    }
    todays = [one["by mIoU"] for one in found["mIoU"]]
    print("| the search optimises | candidates | hold-out mIoU | minus the product's way |\n|---|---|---|---|")
    for objective, scores in found.items():
        for way in ("single", "by mIoU", "by gain", "all by greedy selection"):
            values = [one[way] for one in scores]
            step = interval([mine - todays[n] for n, mine in enumerate(values)])
            print(f"| {objective} | {way} | {np.median(values):.4f} | {step} |", flush=True)
    whole = {
        objective: float(np.median([one["whole trials"] for one in scores])) for objective, scores in found.items()
    }
    print(f"{num_seeds} seeds, {budget} epochs, whole trials {whole}, {time.perf_counter() - begun_s:.0f} s")
    return dict(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--budget", type=int, default=40 * MAX_EPOCHS)
    given = parser.parse_args()
    run(given.seeds, given.budget)


if __name__ == "__main__":
    main()
