"""Methods of search at equal epochs, replayed on learning curves of families that cross.

    python tests/benchmarks/bench_search.py [--seeds 20] [--budget 1080]

Every seed is a task of its own and drives the project's searcher and schedulers over spaces/all.yaml, four trials at
once. Per method the best mIoU seen within a third and the whole of the budget, minus that of random search without
stopping within the whole (so at least 0 at a third is the same value in a third of the epochs): the median over seeds
with its 95% bootstrap interval. Of the slow family, its best minus that under TPE with one bracket for all families.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
import optuna
from optuna.samplers import BaseSampler
from optuna.storages import InMemoryStorage
from ray.tune.schedulers import TrialScheduler
from replay.curves import KINDS, NOISE, PowerLaws
from replay.samplers import around_at, random_at
from replay.schedulers import REDUCTION_FACTOR, OneEpochThenBest, Pasha, PlainASHA, family_asha
from replay.simulator import Epoch, Replay, Task

from search.engine.asha import FamilyASHA
from search.engine.searcher import FamilySearch
from search.space.space import Space, load_space
from trainables.ray_trainable import METRIC

MAX_EPOCHS, NUM_WORKERS = 27, 4
RANDOM, PLAIN, OURS = "random, not stopped", "TPE + ASHA", "TPE + ASHA per family (ours)"


@dataclass(frozen=True)
class Method:
    """`scheduler` is made for a task and a budget in epochs; `sampler` for a seed and the space's first points, or None
    for ours."""

    scheduler: Callable[[Task, int], TrialScheduler]
    sampler: Callable[[int, Sequence[Mapping[str, Any]]], Callable[[int], BaseSampler] | None]
    of_budget: bool = False  # a smaller budget is another search
    retrains: bool = False  # its best trial may not have been trained to the end: the rest of that is paid for too


def randomly(seed: int, points: Sequence[Mapping[str, Any]]) -> Callable[[int], BaseSampler]:
    return partial(random_at, seed)


def by_tpe(seed: int, points: Sequence[Mapping[str, Any]]) -> None:
    return None


def around(seed: int, points: Sequence[Mapping[str, Any]]) -> Callable[[int], BaseSampler]:
    return partial(around_at, points, seed)


def plain_asha(task: Task, budget: int) -> FamilyASHA:
    return PlainASHA(
        metric=METRIC, max_epochs=task.max_epochs, grace_epochs=task.grace_epochs, reduction_factor=REDUCTION_FACTOR
    )


def per_family(task: Task, budget: int) -> FamilyASHA:
    return family_asha(task.max_epochs, task.grace_epochs)


METHODS: dict[str, Method] = {
    RANDOM: Method(lambda task, budget: family_asha(task.max_epochs, task.max_epochs), randomly),
    "one epoch, then the best": Method(
        lambda task, budget: OneEpochThenBest(task.max_epochs, budget), randomly, of_budget=True
    ),
    "random + ASHA": Method(plain_asha, randomly),
    PLAIN: Method(plain_asha, by_tpe),
    "PASHA": Method(lambda task, budget: Pasha(task.max_epochs, task.grace_epochs, 2 * NOISE), randomly, retrains=True),
    "around points and incumbents": Method(per_family, around),
    "random + ASHA per family": Method(per_family, randomly),
    OURS: Method(per_family, by_tpe),
}


def space_of(task: Task) -> Space:
    """The task's space; more trials than any budget holds."""
    settings = {"num_trials": 100_000, "max_epochs": task.max_epochs, "grace_epochs": task.grace_epochs}
    return load_space(
        task.space, overrides=[*(f"search.{key}={value}" for key, value in settings.items()), f"seed={task.seed}"]
    )


def replay(method: Method, task: Task, budget: int) -> list[Epoch]:
    space = space_of(task)
    sampler_at = method.sampler(task.seed, space.defaults())
    search = FamilySearch(space, storage=InMemoryStorage(), metric=METRIC, sampler_at=sampler_at)  # type: ignore[arg-type]
    run = Replay(search, method.scheduler(task, budget), task, num_workers=NUM_WORKERS, num_ahead=1)
    return list(islice(run.epochs(), budget))


@dataclass(frozen=True)
class Scores:
    """The best mIoU within a third and the whole of the budget, of all families and of the slow one."""

    third: float
    whole: float
    slow_third: float
    slow_whole: float


def score(method: Method, task: Task, budget: int) -> Scores:
    whole = replay(method, task, budget)
    third = replay(method, task, budget // 3) if method.of_budget else whole[: budget // 3]
    if method.retrains:
        third, whole = finished(third, task), finished(whole, task)
    best = [max(one.miou for one in part) for part in (third, whole)]
    slow = [max((one.miou for one in part if one.family == task.slow_family), default=0.0) for part in (third, whole)]
    return Scores(*best, *slow)


def finished(epochs: Sequence[Epoch], task: Task) -> list[Epoch]:
    """The same budget, whose last part trains the trial to the end that was best at the highest rung before it."""
    kept = list(epochs[: -task.max_epochs])
    last = max(kept, key=lambda one: (one.epoch, one.miou))
    rest = range(last.epoch + 1, task.max_epochs + 1)
    return kept + [replace(last, epoch=epoch, miou=task.metrics(last.recipe, epoch)[METRIC]) for epoch in rest]


def interval(values: Sequence[float]) -> str:
    """'+0.012 [+0.008, +0.016]': the median over seeds, and 95% of its bootstrap draws."""
    drawn = np.random.default_rng(0).choice(np.array(values), (10_000, len(values)))
    low, high = np.percentile(np.median(drawn, axis=1), [2.5, 97.5])
    return f"{np.median(values):+.3f} [{low:+.3f}, {high:+.3f}]"


def table(found: Mapping[str, Sequence[Scores]]) -> list[str]:
    """Lines of Markdown, one per method."""
    lines = [
        "| method | a third of the epochs | all epochs | slow family, a third | slow family, all |",
        "|---|---|---|---|---|",
    ]
    for name, scores in found.items():
        pairs = list(zip(scores, found[RANDOM], found[PLAIN], strict=True))
        cells = [
            interval([mine.third - random.whole for mine, random, _ in pairs]),
            interval([mine.whole - random.whole for mine, random, _ in pairs]),
            interval([mine.slow_third - plain.slow_third for mine, _, plain in pairs]),
            interval([mine.slow_whole - plain.slow_whole for mine, _, plain in pairs]),
        ]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return lines


def compare(tasks: Sequence[Task], budget: int) -> dict[str, list[Scores]]:
    """method -> scores by task."""
    return {name: [score(method, task, budget) for task in tasks] for name, method in METHODS.items()}


def run(num_seeds: int = 20, budget: int = 40 * MAX_EPOCHS) -> dict[str, Any]:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    tables = {}
    for kind in KINDS:
        begun_s = time.perf_counter()
        tables[kind] = table(compare([PowerLaws(kind, seed, MAX_EPOCHS) for seed in range(num_seeds)], budget))
        print(f"\n{kind}: {num_seeds} seeds, {budget} epochs, {time.perf_counter() - begun_s:.0f} s\n")
        print("\n".join(tables[kind]), flush=True)
    return tables


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--budget", type=int, default=40 * MAX_EPOCHS)
    given = parser.parse_args()
    run(given.seeds, given.budget)


if __name__ == "__main__":
    main()
