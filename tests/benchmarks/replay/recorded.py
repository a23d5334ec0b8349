"""Learning curves of trainings that happened, looked up by recipe: a tabular benchmark.

The idea of NAS-Bench-101 (Ying et al. 2019) and of HPOBench's tabular tasks (Eggensperger et al. 2021): a search asks a
table instead of training, so that many seeds of many methods cost nothing. A recipe's curve is that of the nearest one
recorded: of its backbone, then of its class weights, then by learning rate. `record_curves.py` makes the table.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from trainables.ray_trainable import METRIC
from trainables.recipe.config import Config
from trainables.recipe.recipe import backbone_family

from .simulator import Recipe

SPACE, TABLE = Path(__file__).with_name("wbc.yaml"), Path(__file__).with_name("wbc.json")
LEARNING_RATES = (1e-3, 2e-3, 4e-3, 8e-3)


class Training(Config):
    """One recipe's training."""

    curve: tuple[float, ...]  # val mIoU by epoch
    holdout: float  # mIoU of the best epoch's weights
    fold: int | None = None  # that `curve` is of, where folds take turns


class Recorded(Config):
    """Recipe (`key_of`) -> its training on the card's own split (`fixed`), and on one fold's (`rotated`)."""

    fixed: dict[str, Training]
    rotated: dict[str, Training]

    @classmethod
    def read(cls, path: Path = TABLE) -> Self:
        return cls.model_validate_json(path.read_bytes())


@dataclass(frozen=True)
class RecordedTask:
    """A search over recorded curves. Seeds differ in what is suggested alone."""

    trainings: Mapping[str, Training]
    seed: int
    max_epochs: int
    grace_epochs: int = 1
    space: str = str(SPACE)

    def metrics(self, recipe: Recipe, epoch: int) -> dict[str, Any]:
        return {METRIC: self.trainings[nearest(recipe, self.trainings)].curve[epoch - 1]}

    def epoch_s(self, recipe: Recipe) -> float:
        return 1.0

    @property
    def slow_family(self) -> str:
        """The family that has reached the smallest share of its last mIoU after the first epoch."""
        shares: dict[str, list[float]] = {}
        for key, one in sorted(self.trainings.items()):
            shares.setdefault(family_of(key), []).append(one.curve[0] / one.curve[-1])
        return min(shares, key=lambda family: float(np.mean(shares[family])))


def family_of(key: str) -> str:
    return backbone_family(key.partition("/")[0])


def key_of(recipe: Recipe) -> str:
    """'test_convnext/none/0.002': backbone, class weights, learning rate."""
    return f"{recipe['backbone']['name']}/{recipe['loss']['class_weights']}/{recipe['optimizer']['lr']}"


def nearest(recipe: Recipe, keys: Iterable[str]) -> str:
    """The recorded recipe that stands for this one."""

    def distance(key: str) -> tuple[bool, bool, float]:
        backbone, weights, lr = key.split("/")
        others = backbone != recipe["backbone"]["name"], weights != recipe["loss"]["class_weights"]
        return *others, abs(math.log(recipe["optimizer"]["lr"] / float(lr)))

    return min(sorted(keys), key=distance)
