"""Whether intervals hold and verdicts err as seldom as they say, on simulated populations.

    python tests/benchmarks/bench_intervals.py [--runs 400]

Images come independently or in groups whose members resemble each other; two rules have equal mIoU in the population,
or differ by 0.02. Per cell: how often the 95% interval of the gain on a hold-out holds the population's gain (0.93 or
more is asked for), how often an ensemble without any gain ships (0.05 or less), and how often one with a gain does.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

import numpy as np

from analysis.ensembling.bootstrap import Resampled, bootstrap_draws, gain, resample
from analysis.ensembling.verdict import make_verdict, select_rule
from trainables.metrics import miou

K, PIXELS = 4, 400
SHARES = np.array([4.0, 2, 1, 1])  # of a Dirichlet: how common each class is
BETWEEN, WITHIN, DISAGREE = 0.10, 0.10, 0.04  # spread of accuracy over groups, over their images, and between two rules


@dataclass(frozen=True)
class Cell:
    """`num_groups` None: every image is its own."""

    num_groups: int | None
    num_images: int


CELLS = [Cell(groups, images) for groups in (None, 4, 6, 10, 33) for images in (50, 100, 230)]


def sample(rng: np.random.Generator, cell: Cell, edge: float) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Counts (N,K,K) of two rules on the same images, the second more accurate by `edge` on average; the groups."""
    num_groups = cell.num_groups or cell.num_images
    group = np.arange(cell.num_images) % num_groups
    hard = rng.normal(0, BETWEEN, num_groups)[group] + rng.normal(0, WITHIN, cell.num_images)
    # the rules differ by group too: an ensemble that helps in one scene may hurt in another
    differ = rng.normal(0, DISAGREE, num_groups)[group] + rng.normal(0, DISAGREE, cell.num_images)
    sizes = rng.multinomial(PIXELS, rng.dirichlet(SHARES, cell.num_images))  # (N,K)
    counts = [counted(rng, np.clip(0.6 + hard + sign * differ / 2, 0.05, 0.95), sizes) for sign in (-1, 1)]
    if edge:
        counts[1] = counted(rng, np.clip(0.6 + edge + hard + differ / 2, 0.05, 0.95), sizes)
    return counts[0], counts[1], [str(g) for g in group]


def counted(rng: np.random.Generator, accuracy: np.ndarray, sizes: np.ndarray) -> np.ndarray:  # (N,), (N,K) -> (N,K,K)
    out = np.zeros((len(accuracy), K, K), np.int64)
    for k in range(K):
        row = np.repeat(((1 - accuracy) / (K - 1))[:, None], K, 1)
        row[:, k] = accuracy
        out[:, k] = rng.multinomial(sizes[:, k], row)
    return out


def true_gain(edge: float) -> float:
    plain, rich, _ = sample(np.random.default_rng(99), Cell(None, 60000), edge)
    return float(miou(rich.sum(0)) - miou(plain.sum(0)))


def scored(counts: np.ndarray, groups: list[str], grouped: bool, seed: int) -> Resampled:
    return resample(counts, bootstrap_draws(groups, grouped, 1000, seed))


def run_cell(cell: Cell, edge: float, population: float, num_runs: int) -> tuple[float, float]:
    """How often the interval held the population's gain, and how often the ensemble shipped."""
    held = shipped = 0
    for seed in range(num_runs):
        rng = np.random.default_rng([seed, cell.num_images, cell.num_groups or 0, round(edge * 1000)])
        (plain, rich, groups), grouped = sample(rng, cell, edge), cell.num_groups is not None
        val = {"best_single": scored(plain, groups, grouped, seed), "member_class": scored(rich, groups, grouped, seed)}
        taken = select_rule(val).taken
        plain, rich, groups = sample(rng, cell, edge)
        step = gain(scored(rich, groups, grouped, seed), scored(plain, groups, grouped, seed))
        held += step.low is not None and step.high is not None and step.low <= population <= step.high
        shipped += taken != "best_single" and make_verdict(taken, 3, step, cell.num_images).ship == "ensemble"
    return held / num_runs, shipped / num_runs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=400)
    num_runs = parser.parse_args().runs
    gains = {edge: true_gain(edge) for edge in (0.0, 0.03)}
    print(f"gain in the population: {gains[0.0]:+.4f} without an edge, {gains[0.03]:+.4f} with one; {num_runs} runs")
    print(f"{'groups':>8} {'images':>7} {'coverage':>9} {'ships without a gain':>21} {'ships with a gain':>18}")
    for cell in CELLS:
        coverage, wrong = run_cell(cell, 0.0, gains[0.0], num_runs)
        covered, power = run_cell(cell, 0.03, gains[0.03], num_runs)
        print(
            f"{cell.num_groups or 'none':>8} {cell.num_images:>7} {min(coverage, covered):>9.3f} {wrong:>21.3f} "
            f"{power:>18.3f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
