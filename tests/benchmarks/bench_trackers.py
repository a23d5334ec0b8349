"""What an epoch costs with each tracker, against none: milliseconds that the search waits.

    python tests/benchmarks/bench_trackers.py

Rounds of every tracker in turn, each a trial of NUM_EPOCHS epochs with 20 classes, in a run directory of its own; W&B
offline, MLflow in its embedded store. `none` is the event log alone, which every search has.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Mapping
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from search.observers.event_log import EventLog
from search.observers.search_info import SearchInfo
from search.observers.trackers import NEEDS, TRACKERS
from search.observers.trial_row import Observer, TrialRow
from search.run_dir import RunDir

NUM_EPOCHS, NUM_ROUNDS, NUM_CLASSES = 60, 5, 20
CLASSES = tuple(f"class {k}" for k in range(NUM_CLASSES))


def epoch_metrics(rng: np.random.Generator, epoch: int) -> dict[str, Any]:
    iou = rng.random(NUM_CLASSES)
    values = {"epoch": epoch, "val/miou": float(iou.mean()), "val/iou": iou.tolist(), "lr": 1e-3, "images_per_s": 80.0}
    return values | {"val/loss": float(rng.random()), "train/loss": float(rng.random())}


def epoch_ms(observers: list[Observer], row: TrialRow) -> list[float]:
    """How long each epoch of one trial keeps the search."""
    rng, took = np.random.default_rng(row.number), []
    for observer in observers:
        observer.trial_started(row)
    for epoch in range(1, NUM_EPOCHS + 1):
        metrics, told = epoch_metrics(rng, epoch), replace(row, epochs=epoch)
        start = time.perf_counter()
        for observer in observers:
            observer.epoch(told, metrics)
        took.append(1000 * (time.perf_counter() - start))
    for observer in observers:
        observer.trial_ended(replace(row, state="COMPLETE", epochs=NUM_EPOCHS, best_miou=0.5, best_epoch=1))
    return took


def observers_of(name: str, root: Path) -> list[Observer]:
    info = SearchInfo(RunDir(root), CLASSES)
    return [EventLog(info.run.events, clock=time.time), *([TRACKERS[name](info)] if name in TRACKERS else [])]


def measure(root: Path) -> Mapping[str, Mapping[str, float]]:
    """Median milliseconds per epoch and per `begin` of each tracker, and the ratio to none."""
    names = ["none", *(name for name in TRACKERS if name not in NEEDS or find_spec(NEEDS[name][0]))]
    observers: dict[str, list[Observer]] = {}
    begin_ms: dict[str, float] = {}
    for name in names:
        (root / name).mkdir()
        observers[name] = observers_of(name, root / name)
        start = time.perf_counter()
        for observer in observers[name]:
            observer.begin({}, NUM_ROUNDS)
        begin_ms[name] = 1000 * (time.perf_counter() - start)
    took: dict[str, list[float]] = {name: [] for name in names}
    for number in range(NUM_ROUNDS):
        row = TrialRow(f"{number:05d}", number, "RUNNING", f"hash{number}", "convnext", "convnext_atto", "segformer")
        for name in names:
            took[name] += epoch_ms(observers[name], row)
    for each in observers.values():
        for observer in each:
            observer.end()
    medians = {name: statistics.median(values) for name, values in took.items()}
    return {
        name: {"epoch_ms": ms, "ratio": ms / medians["none"], "begin_ms": begin_ms[name]}
        for name, ms in medians.items()
    }


def run() -> Mapping[str, Mapping[str, float]]:
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    os.environ["WANDB_MODE"] = "offline"
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        rows = measure(Path(folder))
    print(f"{'tracker':<14}{'ms an epoch':>12}{'ratio':>8}{'ms to begin':>13}")
    for name, row in rows.items():
        print(f"{name:<14}{row['epoch_ms']:>12.2f}{row['ratio']:>8.1f}{row['begin_ms']:>13.0f}")
    return rows


if __name__ == "__main__":
    run()
