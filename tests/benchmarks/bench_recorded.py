"""What the replays say, asked again of trainings that happened (`record_curves.py`).

    python tests/benchmarks/bench_recorded.py [--seeds 20] [--budget 108] [--recorded OUT_DIR]

Methods of search at equal epochs on the recorded curves, as `bench_search.py` has them. Then, over random halves of the
recipes: the hold-out mIoU of the recipe that is best on the fixed val, or best by its fold's score less the fold's
effect (`replay.folds`). With OUT_DIR, which has the predictions, the hold-out mIoU of greedily weighed candidates,
taken by val mIoU or by what each adds to those before it, at most three per family.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from bench_gain import Pool
from bench_search import compare, table
from numpy.typing import NDArray
from replay.folds import corrected
from replay.recorded import Recorded, RecordedTask, family_of
from scipy.stats import spearmanr

NUM_DRAWS = 200


def halves(keys: Sequence[str]) -> list[NDArray[np.str_]]:
    """Random halves of the recipes."""
    rng = np.random.default_rng(0)
    return [rng.choice(np.array(keys), len(keys) // 2, replace=False) for _ in range(NUM_DRAWS)]


def rotation(recorded: Recorded) -> list[str]:
    """Lines of Markdown, one per way to rank recipes. The truth is the mean hold-out mIoU of a recipe's trainings."""
    keys = sorted(set(recorded.fixed) & set(recorded.rotated))
    truth = {key: (recorded.fixed[key].holdout + recorded.rotated[key].holdout) / 2 for key in keys}
    best = {key: max(recorded.fixed[key].curve) for key in keys}
    scores = {key: (family_of(key), recorded.rotated[key].fold or 0, max(recorded.rotated[key].curve)) for key in keys}
    num_folds = 1 + max(fold for _, fold, _ in scores.values())
    ways: dict[str, Callable[[Sequence[str]], dict[str, float]]] = {
        "fixed": lambda some: {key: best[key] for key in some},
        "rotated, raw": lambda some: {key: scores[key][2] for key in some},
        "rotated, less the fold's effect": lambda some: corrected({key: scores[key] for key in some}, num_folds),
    }
    chosen = {way: [max(some, key=rank(some).__getitem__) for some in halves(keys)] for way, rank in ways.items()}
    lines = ["| validation | rank correlation with the truth | chosen recipe | minus fixed, draws better / worse |"]
    lines.append("|---|---|---|---|")
    for way, rank in ways.items():
        every = rank(keys)
        correlation = spearmanr([every[key] for key in keys], [truth[key] for key in keys]).statistic
        steps = np.array([truth[a] - truth[b] for a, b in zip(chosen[way], chosen["fixed"], strict=True)])
        shown = f"{steps.mean():+.4f}, {(steps > 0).mean():.2f} / {(steps < 0).mean():.2f}"
        mean = np.mean([truth[key] for key in chosen[way]])
        lines.append(f"| {way} | {correlation:.2f} | {mean:.4f} | {shown} |")
    return lines


def candidates(recorded: Recorded, folder: Path) -> list[str]:
    """Lines of Markdown, one per way to take candidates of the fixed trainings."""
    files = [np.load(path) for path in sorted(folder.glob("fixed-*.npz"))]
    known = {str(file["key"]): file for file in files}
    truth = np.concatenate([files[0]["val_truth"], files[0]["holdout_truth"]])
    steps: dict[str, list[float]] = {"by mIoU": [], "by gain": [], "the best single one": []}
    for some in halves(sorted(known)):
        pool = Pool(files[0]["val_truth"].size, truth)
        for key in some:
            q = np.concatenate([known[key]["val_q"], known[key]["holdout_q"]], axis=1).astype(np.float32)
            pool.add({"backbone": {"name": key.partition("/")[0]}}, q, max(recorded.fixed[key].curve))
        ways = {"by mIoU": pool.by_miou(), "by gain": pool.by_gain(), "the best single one": pool.by_miou()[:1]}
        for way, taken in ways.items():
            steps[way].append(pool.holdout(taken))
    lines = ["| candidates | hold-out mIoU | minus by mIoU, draws better / worse |", "|---|---|---|"]
    for way, values in steps.items():
        step = np.array(values) - np.array(steps["by mIoU"])
        shown = f"{step.mean():+.4f}, {(step > 0).mean():.2f} / {(step < 0).mean():.2f}"
        lines.append(f"| {way} | {np.mean(values):.4f} | {shown} |")
    return lines


def run(num_seeds: int = 20, budget: int = 108, folder: Path | None = None) -> dict[str, Any]:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    recorded = Recorded.read(folder / "curves.json") if folder else Recorded.read()
    length = len(next(iter(recorded.fixed.values())).curve)
    tasks = [RecordedTask(recorded.fixed, seed, length) for seed in range(num_seeds)]
    found = {"methods": table(compare(tasks, budget)), "rotation": rotation(recorded)}
    if folder:
        found["candidates"] = candidates(recorded, folder)
    for name, lines in found.items():
        print(f"\n{name}: {len(recorded.fixed)} recipes, {num_seeds} seeds, {budget} epochs\n")
        print("\n".join(lines), flush=True)
    return dict(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--budget", type=int, default=108)
    parser.add_argument("--recorded", type=Path)
    given = parser.parse_args()
    run(given.seeds, given.budget, given.recorded)


if __name__ == "__main__":
    main()
