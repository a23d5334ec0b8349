"""Which rule a policy takes on val, and what that is worth on images nobody saw: the ladder against its rivals.

    python tests/benchmarks/bench_policies.py [--runs 200] [--run RUN ...]

Simulated: eight rules from plain to rich on the same images, whose gains over the best single model are known. Real:
the counts of finished runs (confusions.safetensors), of which images are drawn with replacement, val and hold-out
apart. A policy takes a rule on val; it ships where the hold-out's interval lies above 0, else the single model does.
Per policy: the gain of what ships in the population (of a run: on all of its hold-out), and how often a rule without
any gain ships.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from safetensors import safe_open

from analysis.ensembling.bootstrap import Resampled, bootstrap_draws, gain, resample
from analysis.ensembling.verdict import climb, select_rule
from trainables.metrics import miou

K, PIXELS, NUM_RESAMPLES = 4, 400, 500
SHARES = np.array([4.0, 2, 1, 1])  # of a Dirichlet: how common each class is
BETWEEN, WITHIN, DISAGREE = 0.10, 0.10, 0.04  # spread of accuracy over groups, over their images, and between rules
EDGES = {  # by which each rule's accuracy is above the first one's
    "no gain": (0, 0, 0, 0, 0, 0, 0, 0),
    "richer is worse": (0, 0, -0.01, -0.01, -0.02, -0.02, -0.03, -0.03),
    "a little each": (0, 0.004, 0.008, 0.012, 0.016, 0.020, 0.024, 0.028),
    "the richest alone": (0, 0, 0, 0, 0, 0, 0, 0.03),
    "the plain ones alone": (0, 0.02, 0.02, 0.02, 0, 0, 0, 0),
}
SIZES: tuple[tuple[int | None, int], ...] = ((None, 50), (None, 230), (6, 100), (20, 200))  # groups, images
Scored = Mapping[str, Resampled]
Policy = Callable[[Scored], str]


def best(scores: Scored) -> str:
    return max(scores, key=lambda name: scores[name].miou)


def one_error(scores: Scored) -> str:
    """The plainest rule within one standard error (of the paired difference) of the best."""
    top = scores[best(scores)]
    for name, one in scores.items():
        if top.miou - one.miou <= np.nanstd(top.mious - one.mious):
            return name
    raise AssertionError("the best is within its own error")


POLICIES: dict[str, Policy] = {
    "ladder at 80%": partial(climb, confidence=0.8),
    "ladder at 90%": partial(climb, confidence=0.9),
    "ladder at 95%": partial(climb, confidence=0.95),
    "best": best,
    "one standard error": one_error,
    "best that holds at 90%": lambda scores: select_rule(scores, 0.9).taken,
}


def sample(rng: np.random.Generator, num_groups: int | None, num_images: int, edges: Sequence[float]) -> np.ndarray:
    """Counts (R,N,K,K) of R rules on the same images; image i is of group i modulo `num_groups`."""
    groups = num_groups or num_images
    group = np.arange(num_images) % groups
    hard = rng.normal(0, BETWEEN, groups)[group] + rng.normal(0, WITHIN, num_images)
    sizes = rng.multinomial(PIXELS, rng.dirichlet(SHARES, num_images))  # (N,K)
    out = np.zeros((len(edges), num_images, K, K), np.int64)
    for r, edge in enumerate(edges):
        differ = rng.normal(0, DISAGREE, groups)[group] + rng.normal(0, DISAGREE, num_images)
        accuracy = np.clip(0.6 + edge + hard + differ / 2, 0.05, 0.95)
        for k in range(K):
            row = np.repeat(((1 - accuracy) / (K - 1))[:, None], K, 1)
            row[:, k] = accuracy
            out[r, :, k] = rng.multinomial(sizes[:, k], row)
    return out


def score(counts: Mapping[str, np.ndarray], groups: Sequence[str], grouped: bool, seed: int) -> dict[str, Resampled]:
    draws = bootstrap_draws(groups, grouped, NUM_RESAMPLES, seed)
    return {name: resample(one, draws) for name, one in counts.items()}


def ships(policy: Policy, val: Scored, holdout: Scored) -> str:
    first, taken = next(iter(val)), policy(val)
    return taken if gain(holdout[taken], holdout[first]).is_above_zero else first


def simulated(num_runs: int) -> None:
    for what, edges in EDGES.items():
        names = [f"rule {r}" for r in range(len(edges))]
        many = sample(np.random.default_rng(7), None, 30000, edges)
        truth = {name: float(miou(one.sum(0)) - miou(many[0].sum(0))) for name, one in zip(names, many, strict=True)}
        for num_groups, num_images in SIZES:
            shipped: dict[str, list[str]] = {policy: [] for policy in POLICIES}
            groups = [str(i % (num_groups or num_images)) for i in range(num_images)]
            for seed in range(num_runs):
                rng = np.random.default_rng([seed, num_images, num_groups or 0])
                val, holdout = (
                    score(dict(zip(names, part, strict=True)), groups, num_groups is not None, seed)
                    for part in (sample(rng, num_groups, num_images, edges) for _ in range(2))
                )
                for name, policy in POLICIES.items():
                    shipped[name].append(ships(policy, val, holdout))
            cell = f"{what}, {num_images} images" + (f" of {num_groups} groups" if num_groups else "")
            for name, rules in shipped.items():
                wrong = np.mean([rule != names[0] and truth[rule] <= 0.001 for rule in rules])
                worth = np.mean([truth[rule] for rule in rules])
                print(f"{cell:45} {name:24} gain {worth:+.4f}  ships without a gain {wrong:.3f}", flush=True)


def real(run: Path, num_runs: int) -> None:
    with safe_open(run / "confusions.safetensors", framework="numpy") as file:
        meta = file.metadata()
        rules = list(dict.fromkeys(key.rpartition("/")[0] for key in file.keys()))  # noqa: SIM118
        ordered = [rule["name"] for rule in json.loads((run / "ensemble.json").read_text())["rules"]]
        rules = [name for name in ordered if name in rules and name != "postprocessed"]
        val = {name: file.get_tensor(f"{name}/val_crossfit") for name in rules}
        unseen = {name: file.get_tensor(f"{name}/holdout") for name in rules}
    assert meta is not None
    single = miou(unseen[rules[0]].sum(0))
    truth = {name: float(miou(one.sum(0)) - single) for name, one in unseen.items()}
    shipped: dict[str, list[str]] = {policy: [] for policy in POLICIES}
    for seed in range(num_runs):
        rng = np.random.default_rng(seed)
        drawn = [rng.integers(0, n, n) for n in (len(val[rules[0]]), len(unseen[rules[0]]))]
        parts = [
            score({name: one[rows] for name, one in counts.items()}, [str(i) for i in range(len(rows))], False, seed)
            for counts, rows in zip((val, unseen), drawn, strict=True)
        ]
        for name, policy in POLICIES.items():
            shipped[name].append(ships(policy, *parts))
    print(f"{run.name}: on all of the hold-out " + ", ".join(f"{name} {step:+.4f}" for name, step in truth.items()))
    for name, picked in shipped.items():
        often = {rule: picked.count(rule) / num_runs for rule in rules if rule in picked}
        worth = np.mean([truth[rule] for rule in picked])
        print(f"  {name:24} gain {worth:+.4f}  " + ", ".join(f"{rule} {share:.0%}" for rule, share in often.items()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--run", type=Path, action="append", default=[])
    given = parser.parse_args()
    for run in given.run:
        real(run, given.runs)
    if not given.run:
        simulated(given.runs)


if __name__ == "__main__":
    main()
