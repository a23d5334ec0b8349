"""The exact weight search against general optimisers, on the same probabilities: mIoU, seconds, memory.

    python tests/benchmarks/bench_weights.py [NUM_PIXELS [NUM_MEMBERS]]     # 200,000 and 4; try 1000000 10

All of them maximise the same mIoU of the same sample through the same counting kernel (a few milliseconds a trial),
so the rivals pay nothing for Python there. They search log-weights in [1/16, 16]; the exact search has [0, 16].
Stated beside each rival: how long the exact search took to pass the rival's best mIoU. Seconds are of the CPU.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import functools
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cmaes
import numpy as np
import optuna
from scipy.optimize import minimize

from analysis.coordinate import Fit, _Search, fit_weights
from analysis.greedy import select_members
from analysis.part import Part
from analysis.rules import Sample, best_member, best_single_class, member, member_class, soft_class
from analysis.voting import sample_confusion
from trainables.metrics import confusion, miou

NUM_CLASSES = 11
Objective = Callable[[np.ndarray], float]


def made_up(num_members: int, num_pixels: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities (M,K,P) and labels (P,): rare classes, members that are good at different ones and share half
    of their errors, and overconfidence, as small models trained from scratch show."""
    rng = np.random.default_rng(seed)
    prior = rng.dirichlet(np.linspace(6, 0.3, NUM_CLASSES))
    truth = rng.choice(NUM_CLASSES, num_pixels, p=prior).astype(np.uint8)
    skill = rng.uniform(0.5, 4, (num_members, NUM_CLASSES)).astype(np.float32)
    shared = rng.normal(size=(NUM_CLASSES, num_pixels)).astype(np.float32)
    q = np.empty((num_members, NUM_CLASSES, num_pixels), np.float32)
    for m in range(num_members):
        logits = 0.8 * rng.normal(size=shared.shape).astype(np.float32) + shared
        logits[truth, np.arange(num_pixels)] += skill[m][truth]
        logits = 1.5 * (logits + 0.7 * np.log(prior + 1e-3)[:, None].astype(np.float32))
        odds = np.exp(logits - logits.max(0))
        q[m] = odds / odds.sum(0)
    return q, truth


def tpe(score: Objective, size: int, num_trials: int) -> int:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=0))

    def trial_score(trial: optuna.Trial) -> float:
        return score(np.array([trial.suggest_float(f"w{i}", -np.log(16), np.log(16)) for i in range(size)]))

    study.enqueue_trial({f"w{i}": 0.0 for i in range(size)})
    study.optimize(trial_score, n_trials=num_trials)
    return num_trials


def cma(score: Objective, size: int, num_trials: int) -> int:
    bounds = np.tile([-np.log(16), np.log(16)], (size, 1))
    optimiser = cmaes.CMA(mean=np.zeros(size), sigma=0.5, bounds=bounds, seed=0)
    done = 0
    while done < num_trials:
        points = [optimiser.ask() for _ in range(optimiser.population_size)]
        optimiser.tell([(point, -score(point)) for point in points])
        done += len(points)
    return done


def nelder_mead(score: Objective, size: int, num_trials: int) -> int:
    simplex = np.vstack([np.zeros(size), 0.7 * np.eye(size)])
    options = {"maxfev": num_trials, "initial_simplex": simplex, "adaptive": True}
    return int(minimize(lambda x: -score(x), np.zeros(size), method="Nelder-Mead", options=options).nfev)


def plain_greedy(q: np.ndarray, truth: np.ndarray, num_picks: int) -> float:
    """Selection with replacement as it is usually written: numpy, float64."""
    total, best = np.zeros(q.shape[1:]), 0.0
    for _ in range(num_picks):
        trials = [float(miou(confusion(truth, (total + row).argmax(0).astype(np.uint8), NUM_CLASSES))) for row in q]
        total += q[int(np.argmax(trials))]
        best = max(best, *trials)
    return best


def _peak_bytes(reset: bool = False) -> int:
    """The process's peak memory, since the last reset where the kernel lets it be reset (Linux)."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    status = Path("/proc/self/status").read_text()
    return 1024 * int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1])


def exact(q: np.ndarray, truth: np.ndarray) -> tuple[list[dict[str, Any]], list[tuple[float, float]]]:
    """A row after one sweep of the whole sample and after more, and one for all starts, the plainer fits among them,
    as the ensemble stage does it; and (seconds, mIoU) of these."""
    _all_starts(q[:, :, :2000].copy(), truth[:2000])  # compiled
    start = [np.ones(q.shape[:2], np.float32)]
    path, rows = [], []
    sweep_s = _seconds(functools.partial(_Search([Part(q, truth)], start[0], 512).sweep, "member_class", whole=False))
    before = _peak_bytes(reset=True)
    fits: dict[str, Callable[[], Fit]] = {
        f"exact, {n} sweep{'s' * (n > 1)}": lambda n=n: fit_weights(  # type: ignore[misc]
            q, truth, start, "member_class", max_sweeps=n, min_gain=1e-5
        )
        for n in (1, 2, 50)
    }
    fits["exact, all starts"] = lambda: _all_starts(q, truth)
    for name, call in fits.items():
        begin = time.process_time()
        fit = call()
        path.append((time.process_time() - begin, fit.miou))
        rows.append({"method": name, "miou": fit.miou, "seconds": path[-1][0], "trials": len(fit.trace)})
    rows[0]["sweep_s"] = sweep_s
    rows[-1]["memory_over_sample"] = 1 + (_peak_bytes() - before) / q.nbytes
    return rows, path


def _all_starts(q: np.ndarray, truth: np.ndarray) -> Fit:
    sample = Sample(q, truth, best_member(q, truth))
    for rule in (best_single_class, soft_class, member, member_class):
        rule(sample)
    return sample.fits["member_class"]


def run(num_pixels: int = 200_000, num_members: int = 4) -> dict[str, Any]:
    """Rows of {method, miou, seconds, trials}; rivals also have `times`, their seconds over those in which the
    exact search passed their mIoU (None where it did not)."""
    q, truth = made_up(num_members, num_pixels)
    size = num_members * NUM_CLASSES
    rows, path = exact(q, truth)
    reading_s = min(_seconds(q.sum) for _ in range(5))
    rows[0]["sweep_over_reading"] = rows[0]["sweep_s"] / reading_s
    budget = 300
    rivals: dict[str, Callable[[Objective], int]] = {
        f"Optuna TPE, {budget}": lambda score: tpe(score, size, budget),
        f"CMA-ES, {4 * budget}": lambda score: cma(score, size, 4 * budget),
        f"Nelder-Mead, {4 * budget}": lambda score: nelder_mead(score, size, 4 * budget),
    }
    for name, rival in rivals.items():
        best = 0.0

        def score(logs: np.ndarray) -> float:
            nonlocal best
            weights = np.exp(logs).reshape(num_members, NUM_CLASSES).astype(np.float32)
            found = float(miou(sample_confusion(q, weights, truth)))
            best = max(best, found)
            return found

        begin = time.process_time()
        trials = rival(score)
        rows.append({"method": name, "miou": best, "seconds": time.process_time() - begin, "trials": trials})
    begin = time.process_time()
    found = plain_greedy(q, truth, 10)
    rows.append({"method": "greedy, plain", "miou": found, "seconds": time.process_time() - begin, "trials": 10})
    select_members(q[:, :, :2000].copy(), truth[:2000], 1)
    begin = time.process_time()
    found = float(miou(sample_confusion(q, select_members(q, truth, 10), truth)))
    rows.append({"method": "greedy, ours", "miou": found, "seconds": time.process_time() - begin, "trials": 10})
    for row in rows[len(path) :]:
        passed = [seconds for seconds, value in path if value > row["miou"]]
        row["times"] = row["seconds"] / min(passed) if passed else None
    _show(rows, num_members, num_pixels, reading_s)
    return {"rows": rows, "num_pixels": num_pixels, "num_members": num_members, "reading_s": reading_s}


def _seconds(call: Callable[[], Any]) -> float:
    begin = time.process_time()
    call()
    return time.process_time() - begin


def _show(rows: list[dict[str, Any]], num_members: int, num_pixels: int, reading_s: float) -> None:
    print(f"{num_members} members, {NUM_CLASSES} classes, {num_pixels:,} pixels; one read {1000 * reading_s:.1f} ms")
    print(f"{'method':20} {'mIoU':>8} {'seconds':>9} {'trials':>7}   seconds over those of the exact search to pass it")
    for row in rows:
        times = f"{row['times']:.0f}x" if row.get("times") else ""
        print(f"{row['method']:20} {row['miou']:8.4f} {row['seconds']:9.2f} {row['trials']:7d}   {times}")
    [memory] = [row["memory_over_sample"] for row in rows if "memory_over_sample" in row]
    print(
        f"one sweep over all weights costs {rows[0]['sweep_over_reading']:.0f}x one reading of the probabilities; "
        f"memory over the sample's: {memory:.2f}x"
    )


if __name__ == "__main__":
    run(*map(int, sys.argv[1:3]))
