"""The exact weight search against general optimisers, on the same probabilities: mIoU, seconds, memory.

    python tests/benchmarks/bench_weights.py [PIXELS [MEMBERS [CAP_S]]]     # 150000 4 15; also 1000000 10, 5000000 4

All of them maximise the same mIoU of the same sample through the same counting kernel (a few milliseconds per trial),
so the rivals pay nothing for Python there. They search log-weights in [1/16, 16]; the exact search has [0, 16]. A
rival stops after CAP_S seconds, and the table says so. Stated beside each: its seconds over those in which the exact
search passed its best mIoU. Seconds are of the CPU, in one thread.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import ctypes
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cmaes
import numpy as np
import optuna
from scipy.optimize import minimize

from analysis.ensembling.rules import Sample, best_single_class, member, member_class, soft_class
from analysis.weight_search.coordinate_search import Fit, _Search, fit_pixels
from analysis.weight_search.pixels import Pixels
from analysis.weight_search.sample_confusion import sample_confusion
from trainables.metrics import confusion, miou

NUM_CLASSES = 11
CHUNK = 100_000  # pixels made at once: the rest of the memory is the sample's
RUN_PX = 8  # pixels of an image lie in runs of one class; half of the noise is a run's, as upsampled logits show
Objective = Callable[[np.ndarray], float]


class OutOfTime(Exception):
    """A rival has used up its seconds."""


def made_up(num_members: int, num_pixels: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities (M,K,P) and labels (P,): rare classes, members that are good at different ones and share half
    of their errors, and overconfidence, as small models trained from scratch show."""
    rng = np.random.default_rng(seed)
    prior = rng.dirichlet(np.linspace(6, 0.3, NUM_CLASSES))
    skill = rng.uniform(0.5, 4, (num_members, NUM_CLASSES)).astype(np.float32)
    q = np.empty((num_members, NUM_CLASSES, num_pixels), np.float32)
    truth = np.empty(num_pixels, np.uint8)
    bias = 0.7 * np.log(prior + 1e-3)[:, None].astype(np.float32)
    for start in range(0, num_pixels, CHUNK):
        here = slice(start, min(start + CHUNK, num_pixels))
        run = np.cumsum(rng.random(here.stop - start) < 1 / RUN_PX)  # (n,)
        labels = rng.choice(NUM_CLASSES, run[-1] + 1, p=prior)[run]
        truth[here] = labels
        shared = _noise(rng, run)
        for m in range(num_members):
            logits = 0.8 * _noise(rng, run) + shared + bias
            logits[labels, np.arange(run.size)] += skill[m][labels]
            odds = np.exp(1.5 * (logits - logits.max(0)))
            q[m, :, here] = odds / odds.sum(0)
    return q, truth


def _noise(rng: np.random.Generator, run: np.ndarray) -> np.ndarray:
    """(K,n) standard normal, half of its variance common to a run."""
    coarse, fine = (rng.standard_normal((NUM_CLASSES, n), np.float32) for n in (run[-1] + 1, run.size))
    noise: np.ndarray = np.float32(np.sqrt(0.5)) * (coarse[:, run] + fine)
    return noise


def tpe(score: Objective, size: int, num_trials: int) -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=0))

    def trial_score(trial: optuna.Trial) -> float:
        return score(np.array([trial.suggest_float(f"w{i}", -np.log(16), np.log(16)) for i in range(size)]))

    study.enqueue_trial({f"w{i}": 0.0 for i in range(size)})
    study.optimize(trial_score, n_trials=num_trials)


def cma(score: Objective, size: int, num_trials: int) -> None:
    bounds = np.tile([-np.log(16), np.log(16)], (size, 1))
    optimiser = cmaes.CMA(mean=np.zeros(size), sigma=0.5, bounds=bounds, seed=0)
    for _ in range(num_trials // optimiser.population_size):
        points = [optimiser.ask() for _ in range(optimiser.population_size)]
        optimiser.tell([(point, -score(point)) for point in points])


def nelder_mead(score: Objective, size: int, num_trials: int) -> None:
    simplex = np.vstack([np.zeros(size), 0.7 * np.eye(size)])
    options = {"maxfev": num_trials, "initial_simplex": simplex, "adaptive": True}
    minimize(lambda x: -score(x), np.zeros(size), method="Nelder-Mead", options=options)


def race(
    rival: Callable[[Objective, int, int], None], q: np.ndarray, truth: np.ndarray, stops: dict[str, int], cap_s: float
) -> list[dict[str, Any]]:
    """A row for each of `stops` (name -> trials, ascending) of one rival: the best mIoU that far, and the seconds."""
    shape = q.shape[:2]
    best, done, begin, rows = 0.0, 0, time.process_time(), []
    before = _peak_bytes(reset=True)
    waiting = dict(stops)

    def close(name: str) -> None:
        rows.append({"method": name, "miou": best, "seconds": time.process_time() - begin, "trials": done,
                     "memory": 1 + (_peak_bytes() - before) / q.nbytes})  # fmt: skip
        waiting.pop(name)

    def score(logs: np.ndarray) -> float:
        nonlocal best, done
        if time.process_time() - begin > cap_s:
            raise OutOfTime
        found = float(miou(sample_confusion(q, np.exp(logs).reshape(shape).astype(np.float32), truth)))
        best, done = max(best, found), done + 1
        for name in [name for name, trials in waiting.items() if trials == done]:
            close(name)
        return found

    try:
        rival(score, shape[0] * shape[1], max(stops.values()))
    except OutOfTime:
        for name in list(waiting):
            close(name)
            rows[-1]["capped"] = True
    for name in list(waiting):  # it ended by itself
        close(name)
    return rows


def plain_greedy(q: np.ndarray, truth: np.ndarray, num_picks: int, cap_s: float) -> dict[str, Any]:
    """Selection with replacement as it is usually written: numpy, float64."""
    before, begin, capped, trials = _peak_bytes(reset=True), time.process_time(), False, 0
    total, best = np.zeros(q.shape[1:]), 0.0
    for _ in range(num_picks):
        scores = [float(miou(confusion(truth, (total + row).argmax(0).astype(np.uint8), NUM_CLASSES))) for row in q]
        total += q[int(np.argmax(scores))]
        best, trials, capped = max(best, *scores), trials + len(scores), time.process_time() - begin > cap_s
        if capped:
            break
    return {"method": "greedy, float64", "miou": best, "seconds": time.process_time() - begin, "trials": trials,
            "memory": 1 + (_peak_bytes() - before) / q.nbytes, "capped": capped}  # fmt: skip


def _peak_bytes(reset: bool = False) -> int:
    """The process's peak memory, since the last reset where the kernel lets it be reset (Linux)."""
    if reset:
        ctypes.CDLL(None).malloc_trim(0)  # what was freed before and is still held would hide what is taken now
        Path("/proc/self/clear_refs").write_text("5")
    status = Path("/proc/self/status").read_text()
    return 1024 * int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1])


def exact(q: np.ndarray, truth: np.ndarray) -> list[dict[str, Any]]:
    """A row after one sweep of the whole sample and after more, and one for all starts, the plainer fits among them,
    as the ensemble stage does it."""
    start, rows = [np.ones(q.shape[:2], np.float32)], []

    def fit(max_sweeps: int) -> Fit:
        return fit_pixels(Pixels(q, truth), start, "member_class", max_sweeps=max_sweeps, min_gain=1e-5)

    calls: dict[str, Callable[[], Fit]] = {
        "exact, 1 sweep": lambda: fit(1),
        "exact, 3 sweeps": lambda: fit(3),
        "exact, to the end": lambda: fit(50),
        "exact, all starts": lambda: _all_starts(q, truth),
    }
    for name, call in calls.items():
        before, begin = _peak_bytes(reset=True), time.process_time()
        found = call()
        rows.append({"method": name, "miou": found.miou, "seconds": time.process_time() - begin,
                     "trials": found.num_sweeps, "memory": 1 + (_peak_bytes() - before) / q.nbytes})  # fmt: skip
    return rows


def _all_starts(q: np.ndarray, truth: np.ndarray) -> Fit:
    sample = Sample(Pixels(q, truth))
    for rule in (best_single_class, soft_class, member, member_class):
        rule(sample)
    return sample.fits["member_class"]


def sweeps(q: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """One sweep over all M x K weights from equal ones, over one reading of the probabilities just before it."""
    search = _Search(Pixels(q, truth), np.ones(q.shape[:2], np.float32), 512)

    def over_reading(call: Callable[[], Any]) -> float:
        reading_s = min(_seconds(q.sum) for _ in range(3))
        return _seconds(call) / reading_s

    climbing = [over_reading(lambda: search.sweep("member_class", whole=False)) for _ in range(6)]

    def whole() -> None:
        for k in range(NUM_CLASSES):
            search.move_weights(k, range(q.shape[0]), whole=True)

    proving = [over_reading(whole) for _ in range(3)]
    return {"first": climbing[0], "climbing": float(np.median(climbing)), "whole": float(np.median(proving))}


def run(num_pixels: int = 150_000, num_members: int = 4, cap_s: float = 15.0) -> dict[str, Any]:
    """Rows of {method, miou, seconds, trials, memory}; rivals also have `times`, their seconds over those in which
    the exact search passed their mIoU (None where it did not), and `capped` where they ran out of seconds."""
    few = made_up(num_members, 5000)
    _all_starts(*few)  # compiled
    sweeps(*few)
    q, truth = made_up(num_members, num_pixels)
    ours = exact(q, truth)
    ratios = sweeps(q, truth)
    rivals = race(tpe, q, truth, {"Optuna TPE, 300": 300, "Optuna TPE, 1,000": 1000}, cap_s)
    rivals += race(cma, q, truth, {"CMA-ES, 1,200": 1200}, cap_s)
    rivals += race(nelder_mead, q, truth, {"Nelder-Mead, 1,200": 1200}, cap_s)
    rivals.append(plain_greedy(q, truth, 10, cap_s))
    for row in rivals:
        passed = [mine["seconds"] for mine in ours if mine["miou"] > row["miou"]]
        row["times"] = row["seconds"] / min(passed) if passed else None
    _show([*ours, *rivals], ratios, num_members, num_pixels, cap_s)
    return {"rows": [*ours, *rivals], "sweep_over_reading": ratios, "num_pixels": num_pixels,
            "num_members": num_members, "cap_s": cap_s}  # fmt: skip


def _seconds(call: Callable[[], Any]) -> float:
    begin = time.process_time()
    call()
    return time.process_time() - begin


def _show(
    rows: list[dict[str, Any]], ratios: dict[str, float], num_members: int, num_pixels: int, cap_s: float
) -> None:
    print(f"{num_members} members, {NUM_CLASSES} classes, {num_pixels:,} pixels; rivals stop after {cap_s:g} s (*)")
    print(f"{'method':20} {'mIoU':>8} {'seconds':>9} {'trials':>7} {'memory':>7}   seconds over the exact search's")
    for row in rows:
        times = f"{row['times']:.0f}x" if row.get("times") else ("not passed" if "times" in row else "")
        star = "*" if row.get("capped") else " "
        print(f"{row['method']:20} {row['miou']:8.4f} {row['seconds']:8.2f}{star} {row['trials']:7d} "
              f"{row['memory']:6.2f}x   {times}")  # fmt: skip
    print(
        f"one sweep over all {num_members * NUM_CLASSES} weights over one reading of the probabilities: "
        f"{ratios['first']:.1f} the first, {ratios['climbing']:.1f} while it climbs, {ratios['whole']:.1f} along whole "
        "lines; trials of the exact search are sweeps, memory is over the probabilities'"
    )


if __name__ == "__main__":
    numbers = [float(argument) for argument in sys.argv[1:4]]
    run(*map(int, numbers[:2]), *numbers[2:])
