"""Records real learning curves for a replay: random recipes of a space, each trained to its last epoch.

    cd tests/benchmarks && python -m replay.record --data data.yaml --space convnext.yaml --out curves.json \
        [--trials 24] [--set search.max_epochs=9 ...]

The file grows with every trial that ends, and those that it holds are not trained again.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import optuna

from search.space.space import load_space
from trainables.data.cache import Cache
from trainables.data.card import read_card
from trainables.data.reader import read
from trainables.data.splits.make_split import decode_facts, make_split
from trainables.files import write_text
from trainables.ray_trainable import METRIC
from trainables.recipe.recipe import Recipe
from trainables.training.attempt import EpochReport
from trainables.training.fit import Diverged, Trial, fit

from .samplers import random_at


def record(data: Path, spec: str, overrides: Sequence[str], num_trials: int, out: Path) -> None:
    space, index = load_space(spec, profile="cpu", overrides=overrides), read(read_card(data))
    found: list[dict[str, Any]] = json.loads(out.read_text(encoding="utf-8")) if out.is_file() else []
    with tempfile.TemporaryDirectory() as folder:
        cache = Cache.open(index, Path(folder) / "cache")
        split = make_split(index, seed=0, known=decode_facts(index, cache))
        for number in range(len(found), num_trials):
            recipe = space.suggest(optuna.create_study(sampler=random_at(0, number)).ask())
            curve = curve_of(recipe, Trial(recipe, cache, split, Path(folder) / str(number), "cpu"))
            found.append({"recipe": recipe.model_dump(mode="json"), "curve": curve})
            write_text(out, json.dumps(found) + "\n")
            print(number, recipe.backbone.name, recipe.head.name, f"{recipe.optimizer.lr:.2g}", curve, flush=True)


def curve_of(recipe: Recipe, trial: Trial) -> list[float]:
    """mIoU by epoch; shorter where the trial diverged."""
    curve: list[float] = []

    def note(done: EpochReport) -> None:
        curve.append(round(float(done.metrics[METRIC]), 5))

    with suppress(Diverged):
        fit(trial, note)
    return curve


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--space", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--trials", type=int, default=24)
    parser.add_argument("--set", action="append", default=[])
    given = parser.parse_args()
    record(given.data, given.space, given.set, given.trials, given.out)


if __name__ == "__main__":
    main()
