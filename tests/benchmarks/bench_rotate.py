"""Whether a validation fold that moves from trial to trial keeps a search from overtuning; replayed.

    python tests/benchmarks/bench_rotate.py [--seeds 20] [--budget 540] [--kinds alike slow_best]

Scores are those of a fold (`replay.folds`): a search may learn what its images do for some recipes. Per spread of that,
the project's search at equal epochs on one fold, and on five folds in turn: ranked by raw scores, by scores less each
fold's true effect (a bound, since no search knows it), or less its estimate. Told is the true mIoU of the recipe that
is chosen among those trained to the end, of the best three, and the chosen one's score minus its true mIoU: medians
over seeds, with 95% bootstrap intervals, the first two minus those of the fixed fold.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from itertools import islice
from typing import Any

import numpy as np
import optuna
from bench_search import MAX_EPOCHS, NUM_WORKERS, interval, per_family, space_of
from optuna.storages import InMemoryStorage
from replay.curves import KINDS, Kind, PowerLaws
from replay.folds import FoldScores, corrected
from replay.simulator import Replay

from search.engine.searcher import FamilySearch
from trainables.ray_trainable import METRIC

FIXED = "fixed"
WAYS = {FIXED: (1, "raw"), "rotated, raw": (5, "raw"), "rotated, true effects": (5, "known")}
WAYS["rotated, estimated effects"] = (5, "estimated")
SPREADS, BUDGET = (0.01, 0.03), 20 * MAX_EPOCHS


def search(kind: Kind, seed: int, spread: float, way: str, budget: int) -> tuple[float, float, float]:
    """The chosen recipe's true mIoU, that of the best three (mean), and the chosen one's score minus its true mIoU."""
    num_folds, correct = WAYS[way]
    model = FoldScores(PowerLaws(kind, seed, MAX_EPOCHS), spread, num_folds, correct)
    searcher = FamilySearch(space_of(model.task), storage=InMemoryStorage(), metric=METRIC)  # type: ignore[arg-type]
    run = Replay(searcher, per_family(model.task, budget), model, num_workers=NUM_WORKERS, num_ahead=1)
    for _ in islice(run.epochs(), budget):
        pass
    whole = model.seen[MAX_EPOCHS]
    raw = {key: value for key, (_, _, value) in whole.items()}
    scores = raw
    if correct == "known":
        scores = {key: value - model.common(whole[key][1]) for key, value in raw.items()}
    elif correct == "estimated":
        scores = corrected(whole, num_folds)
    best = sorted(scores, key=scores.__getitem__, reverse=True)[:3]
    true = [model.task.height(json.loads(key)) for key in best]
    return true[0], float(np.mean(true)), scores[best[0]] - true[0]


def run(
    num_seeds: int = 20, budget: int = BUDGET, kinds: Sequence[Kind] = ("alike",), spreads: Sequence[float] = SPREADS
) -> dict[str, Any]:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    found: dict[str, Any] = {}
    print(
        "| families | spread | validation | chosen recipe | best three | score minus truth |\n|---|---|---|---|---|---|"
    )
    for kind in kinds:
        for spread in spreads:
            begun_s = time.perf_counter()
            by_way = {way: np.array([search(kind, s, spread, way, budget) for s in range(num_seeds)]) for way in WAYS}
            for way, values in by_way.items():
                steps = values - by_way[FIXED]
                cells = [f"{np.median(values[:, 0]):.4f}", f"{np.median(values[:, 1]):.4f}"]
                if way != FIXED:
                    cells = [interval(list(steps[:, column])) for column in (0, 1)]
                print(
                    f"| {kind} | {spread} | {way} | " + " | ".join([*cells, interval(list(values[:, 2]))]) + " |",
                    flush=True,
                )
            found[f"{kind}/{spread}"] = {way: values.tolist() for way, values in by_way.items()}
            print(f"<!-- {time.perf_counter() - begun_s:.0f} s -->", flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--budget", type=int, default=BUDGET)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=["alike"])
    parser.add_argument("--spreads", nargs="+", type=float, default=SPREADS)
    given = parser.parse_args()
    run(given.seeds, given.budget, given.kinds, given.spreads)


if __name__ == "__main__":
    main()
