"""Whether a search under a budget of device-hours should prefer cheap trials; replayed at equal cost.

    python tests/benchmarks/bench_cost.py [--seeds 20] [--tasks recorded alike/unrelated]

Backbones cost 20 to 200 s per epoch, unrelated to how good they are, or the better the dearer: those of
spaces/all.yaml with a budget of 30 whole trials of the mean backbone, and the recorded curves of wbc with one of 12.
Per way to weigh cost the best mIoU within a third and the whole of the budget, minus that of the project's searcher,
which does not weigh it: medians over seeds, with 95% bootstrap intervals. All take some 25 minutes of one core, and
`make bench` runs the recorded ones alone.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import optuna
from bench_search import MAX_EPOCHS, NUM_WORKERS, interval, per_family, space_of
from optuna.storages import InMemoryStorage
from optuna.trial import FixedTrial
from replay.costs import CostlyRecording, CostlyTask, cost_tpe_at
from replay.recorded import Recorded
from replay.simulator import Epoch, Replay

from search.engine.searcher import FamilySearch
from trainables.ray_trainable import METRIC

TODAY, POINTS, PER_COST = "not at all (today)", "cheap points first", "l/g per cost, cooled"
WAYS = (TODAY, POINTS, PER_COST, f"{PER_COST}; {POINTS}")
TASKS = ("alike/unrelated", "alike/dearer_better", "slow_best/unrelated", "recorded")
NUM_TRIALS = {"recorded": 12}  # whole ones that a budget pays for


def task_of(name: str, seed: int) -> CostlyTask | CostlyRecording:
    if name == "recorded":
        trainings = Recorded.read().fixed
        return CostlyRecording(trainings, seed, len(next(iter(trainings.values())).curve))
    kind, costs = name.split("/")
    return CostlyTask(kind, seed, MAX_EPOCHS, costs=costs)  # type: ignore[arg-type]


class Purse:
    """What is left of a budget, in seconds of one device."""

    def __init__(self, budget_s: float) -> None:
        self.budget_s, self.spent_s = budget_s, 0.0

    def share_left(self) -> float:
        return max(0.0, 1 - self.spent_s / self.budget_s)

    def pay(self, epochs: Iterator[Epoch], cost: Callable[[Any], float]) -> Iterator[tuple[float, Epoch]]:
        """Epochs until the budget is spent, each with what all up to it have cost."""
        for epoch in epochs:
            self.spent_s += cost(epoch.recipe)
            if self.spent_s > self.budget_s:
                return
            yield self.spent_s, epoch


def search_of(way: str, task: CostlyTask | CostlyRecording, purse: Purse) -> FamilySearch:
    space, common = space_of(task), {"storage": InMemoryStorage(), "metric": METRIC}
    num_random = len(space.defaults()) + 10
    if PER_COST in way:
        at = partial(cost_tpe_at, task, purse.share_left, num_random)
        found = FamilySearch(space, **common, sampler_at=at)
    else:
        found = FamilySearch(space, **common)
    if POINTS in way:
        found._defaults.sort(key=lambda point: task.epoch_s(space.suggest(FixedTrial(point)).model_dump()))
    return found


def score(way: str, name: str, seed: int) -> tuple[float, float]:
    """The best mIoU within a third and the whole of the budget."""
    task = task_of(name, seed)
    purse = Purse(NUM_TRIALS.get(name, 30) * task.max_epochs * task.mean_s)
    run = Replay(search_of(way, task, purse), per_family(task, 0), task, num_workers=NUM_WORKERS, num_ahead=1)
    paid = list(purse.pay(run.epochs(), task.epoch_s))
    third = max(one.miou for spent_s, one in paid if spent_s <= purse.budget_s / 3)
    return third, max(one.miou for _, one in paid)


def run(num_seeds: int = 20, tasks: Sequence[str] = ("recorded",)) -> dict[str, Any]:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    found: dict[str, Any] = {}
    print("| curves/cost | weighed | a third of the budget | all of it |\n|---|---|---|---|", flush=True)
    for name in tasks:
        found[name] = {}
        for way in WAYS:
            scores = found[name][way] = [score(way, name, seed) for seed in range(num_seeds)]
            pairs = list(zip(scores, found[name][TODAY], strict=True))
            cells = [interval([mine[i] - today[i] for mine, today in pairs]) for i in (0, 1)]
            print(f"| {name} | {way} | {cells[0]} | {cells[1]} |", flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=TASKS)
    given = parser.parse_args()
    run(given.seeds, given.tasks)


if __name__ == "__main__":
    main()
