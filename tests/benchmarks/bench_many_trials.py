"""Seconds per trivial trial of a whole search, against raw Ray Tune's.

    RAY_worker_niceness=0 BENCH_TRIALS=1000 python tests/benchmarks/bench_many_trials.py

Two slots, reused processes, one report per trial; counted from the first trial's begin to the last one's end. Ours is
`run_search` over spaces/all.yaml with the observers of a run: study on disk, TPE, ASHA, tables, progress. Its rivals
are Ray Tune with random suggestions and no callbacks, and Ray Tune with Optuna's TPE, in memory, over the same space.
"""

from __future__ import annotations

import json
import logging
import os
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import optuna
from bench_scale import memory_mb, observers_of
from bench_trial_start import trivial

from search.engine.admission import Admission
from search.run_dir import RunDir
from search.space.space import Space, load_space
from trainables.ray_trainable import METRIC
from trainables.recipe.recipe import Recipe

NUM_TRIALS = int(os.environ.get("BENCH_TRIALS", "100"))
SLOTS = 2


class OneCpu:
    """Admits every recipe and gives it a CPU: what the admission check takes is not the engine's."""

    def admit(self, recipe: Recipe) -> Admission:
        return Admission()

    def resources_of(self, recipe: Recipe) -> Mapping[str, float]:
        return {"cpu": 1}


@lru_cache
def space_of(num_trials: int) -> Space:
    return load_space("all.yaml", overrides=[f"search={{num_trials: {num_trials}, max_epochs: 2, grace_epochs: 1}}"])


def ours(folder: Path, num_trials: int) -> None:
    from search.cluster.run_files import RunFiles
    from search.engine.tuner import run_search

    run, space = RunDir(folder), space_of(num_trials)
    run_search(
        space, OneCpu(), trivial(folder / "log"), RunFiles(run), observers=list(observers_of(run, space).values())
    )


def raw(folder: Path, num_trials: int) -> None:
    """Ray Tune as its own examples use it."""
    from ray import tune

    config = tune.TuneConfig(num_samples=num_trials, reuse_actors=True, metric=METRIC, mode="max")
    fit(folder, config, {"lr": tune.loguniform(1e-5, 1e-1)})


def suggest(trial: optuna.Trial) -> dict[str, Any]:
    """Ray pickles it with its searcher's state."""
    return {"recipe": space_of(NUM_TRIALS).suggest(trial).model_dump(mode="json")}


def raw_tpe(folder: Path, num_trials: int) -> None:
    """Ray Tune with its own searcher for Optuna and its own ASHA."""
    from ray import tune
    from ray.tune.schedulers import ASHAScheduler
    from ray.tune.search import ConcurrencyLimiter
    from ray.tune.search.optuna import OptunaSearch

    tpe = optuna.samplers.TPESampler(multivariate=True, group=True, constant_liar=True, seed=0)
    config = tune.TuneConfig(
        search_alg=ConcurrencyLimiter(OptunaSearch(suggest, metric=METRIC, mode="max", sampler=tpe), SLOTS + 1),
        scheduler=ASHAScheduler(time_attr="epoch", metric=METRIC, mode="max", max_t=2, grace_period=1),
        num_samples=num_trials,
        reuse_actors=True,
    )
    fit(folder, config)


def fit(folder: Path, config: Any, space: dict[str, Any] | None = None) -> None:
    from ray import tune

    tune.Tuner(
        tune.with_resources(trivial(folder / "log"), {"cpu": 1}),
        param_space=space,
        tune_config=config,
        run_config=tune.RunConfig(storage_path=str(folder), name="raw", verbose=0),
    ).fit()


def measure(case: Callable[[Path, int], None], num_trials: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        cpu_s, begun_s, before_mb = time.process_time(), time.time(), memory_mb()
        case(Path(folder), num_trials)
        whole_s = time.time() - begun_s
        driver_s = time.process_time() - cpu_s
        trials = [json.loads(line) for line in (Path(folder) / "log").read_text(encoding="utf-8").splitlines()]
        assert len(trials) == num_trials
        loop_s = max(trial["ended_s"] for trial in trials) - min(trial["began_s"] for trial in trials)
    return {
        "ms per trial": 1000 * loop_s / num_trials,
        "driver's CPU ms": 1000 * driver_s / num_trials,
        "whole s": whole_s,
        "driver's MB": memory_mb() - before_mb,
    }


def run(num_trials: int = NUM_TRIALS) -> dict[str, Any]:
    """Name -> figures, and the ratios of the wall time per trial."""
    import ray

    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AIR_NEW_OUTPUT": "0"}
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    cases = {"raw Ray Tune": raw, "raw Ray Tune, TPE": raw_tpe, "segsearch": ours}
    ray.init(address="local", num_cpus=SLOTS, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    try:
        found: dict[str, Any] = {}
        for name, case in cases.items():
            found[name] = measure(case, num_trials)
            print(f"{name:20}", "  ".join(f"{key} {value:.1f}" for key, value in found[name].items()), flush=True)
    finally:
        ray.shutdown()
    for rival in ("raw Ray Tune", "raw Ray Tune, TPE"):
        found[f"ratio to {rival}"] = found["segsearch"]["ms per trial"] / found[rival]["ms per trial"]
        print(f"ratio to {rival}: {found[f'ratio to {rival}']:.2f}")
    return found


if __name__ == "__main__":
    run()
