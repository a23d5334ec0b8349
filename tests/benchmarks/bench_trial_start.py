"""Seconds from one trial's end to the next one's first step: the search's against raw Ray Tune's.

One slot, so trials run one after another. "imports" are what a real trial needs before its first step (torch, timm,
smp); without reuse every trial pays for them. More trials, steadier medians: `python bench_trial_start.py 20`.
"""

from __future__ import annotations

import itertools
import json
import logging
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna

from search.cluster.run_files import RunFiles
from search.engine.admission import Admission
from search.run_dir import RunDir
from search.space.options import Options, Search
from trainables.recipe.recipe import Recipe

NUM_TRIALS = 10
NUM_SLOW = 4  # without reuse: every trial starts a process
IMPORTS = ("torch", "timm", "segmentation_models_pytorch")


def trivial(log: Path, imports: tuple[str, ...] = ()) -> Callable[[dict[str, Any]], None]:
    """A trial of one report that writes down when its first step began and when it ended."""

    def train(config: dict[str, Any]) -> None:
        import importlib
        import os as worker_os

        from ray import tune

        for name in imports:
            importlib.import_module(name)
        began_s = time.time()
        tune.report({"val/miou": 0.5, "epoch": 1})
        line = json.dumps({"began_s": began_s, "ended_s": time.time()}) + "\n"
        descriptor = worker_os.open(log, worker_os.O_WRONLY | worker_os.O_APPEND | worker_os.O_CREAT)
        worker_os.write(descriptor, line.encode())
        worker_os.close(descriptor)

    return train


def gaps_s(log: Path) -> list[float]:
    trials = sorted((json.loads(line) for line in log.read_text().splitlines()), key=lambda trial: trial["began_s"])
    return [after["began_s"] - before["ended_s"] for before, after in itertools.pairwise(trials)]


@dataclass(frozen=True)
class OneModel:
    """A space of one network and learning rates, of which every trial holds a CPU."""

    options: Options

    def suggest(self, trial: optuna.Trial) -> Recipe:
        head, train = {"name": "segformer"}, {"num_epochs": 1}
        lr = trial.suggest_float("lr", 1e-5, 1e-1, log=True)
        return Recipe.model_validate(
            {"backbone": {"name": "convnext_atto"}, "head": head, "train": train, "optimizer": {"lr": lr}}
        )

    def defaults(self) -> list[dict[str, Any]]:
        return []

    def admit(self, recipe: Recipe) -> Admission:
        return Admission()

    def resources_of(self, recipe: Recipe) -> dict[str, float]:
        return {"cpu": 1}


def ours(folder: Path, num_trials: int, *, reuse: bool, imports: tuple[str, ...] = ()) -> list[float]:
    from search.engine.tuner import run_search

    space = OneModel(Options(search=Search(num_trials=num_trials, max_epochs=2, grace_epochs=1)))
    run_search(space, space, trivial(folder / "log", imports), RunFiles(RunDir(folder)), reuse_actors=reuse)
    return gaps_s(folder / "log")


def raw(folder: Path, num_trials: int, *, reuse: bool) -> list[float]:
    """Ray Tune as its own examples use it: random search, no callbacks of ours, no study."""
    from ray import tune

    tune.Tuner(
        tune.with_resources(trivial(folder / "log"), {"cpu": 1}),
        param_space={"lr": tune.loguniform(1e-5, 1e-1)},
        tune_config=tune.TuneConfig(num_samples=num_trials, reuse_actors=reuse, metric="val/miou", mode="max"),
        run_config=tune.RunConfig(storage_path=str(folder), name="raw", verbose=0),
    ).fit()
    return gaps_s(folder / "log")


def run(num_trials: int = NUM_TRIALS) -> dict[str, Any]:
    """Prints the table and returns its rows: name -> median seconds, and the ratios to raw Ray Tune."""
    import ray

    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AIR_NEW_OUTPUT": "0"}
    cases: dict[str, Callable[[Path], list[float]]] = {
        "raw Ray Tune, reuse": lambda folder: raw(folder, num_trials, reuse=True),
        "segsearch, reuse": lambda folder: ours(folder, num_trials, reuse=True),
        "raw Ray Tune, no reuse": lambda folder: raw(folder, NUM_SLOW, reuse=False),
        "segsearch, no reuse": lambda folder: ours(folder, NUM_SLOW, reuse=False),
        "segsearch, reuse, imports": lambda folder: ours(folder, num_trials, reuse=True, imports=IMPORTS),
        "segsearch, no reuse, imports": lambda folder: ours(folder, NUM_SLOW, reuse=False, imports=IMPORTS),
    }
    ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level=logging.WARNING)
    medians_s = {}
    try:
        for name, case in cases.items():
            with tempfile.TemporaryDirectory() as folder:
                medians_s[name] = statistics.median(case(Path(folder)))
            print(f"{name:32} {medians_s[name]:8.3f} s from a trial's end to the next one's first step")
    finally:
        ray.shutdown()
    ratios = {
        f"ratio, {kind}": medians_s[f"segsearch, {kind}"] / medians_s[f"raw Ray Tune, {kind}"]
        for kind in ("reuse", "no reuse")
    }
    for name, ratio in ratios.items():
        print(f"{name:32} {ratio:8.2f} segsearch to raw Ray Tune")
    return {**medians_s, **ratios}


if __name__ == "__main__":
    run(*map(int, sys.argv[1:]))
