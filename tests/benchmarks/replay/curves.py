"""Learning curves for a replay: families of power laws that cross, as functions of the recipes of spaces/all.yaml.

mIoU after t of T epochs is a * g(t) / g(T) with g(t) = 1 - (1 + t / s)^-1, the shape that learning curves are commonly
fitted with (Domhan et al. 2015, table 1: power laws). The height a is lowered by every setting's distance from an
optimum of the family; s, in epochs, says how slowly the family begins. A learning rate above the optimum begins quicker
and ends lower. One seed is one task: optima, heights and preferences are drawn from it.
"""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np

from trainables.ray_trainable import METRIC
from trainables.recipe.recipe import backbone_family

from .simulator import Recipe

Kind = Literal["alike", "slow_best", "slow_worse"]
KINDS: tuple[Kind, ...] = ("alike", "slow_best", "slow_worse")
FAMILIES = ("convnext", "swin", "beit", "twins", "vit", "mit")
NOISE = 0.003  # mIoU, standard deviation from epoch to epoch
QUICK, SLOW = 3.0, 20.0  # epochs: s of a family
MARGIN = 0.03  # mIoU by which the slow family is better or worse than the others' mean at equal settings
CHOICE_LOSS = 0.02  # mIoU that a wrong item of a choice costs at most
# section, key, low, high, logarithmic, mIoU lost at one whole range from the optimum
NUMBERS = (
    ("optimizer", "lr", 1e-5, 2.5e-4, True, 0.30),
    ("optimizer", "weight_decay", 0.005, 0.25, True, 0.08),
    ("optimizer", "layer_decay", 0.8, 1.0, False, 0.12),
    ("backbone", "drop_path", 0.0, 0.6, False, 0.05),
)
CHOICES = (("backbone", "name"), ("head", "name"), ("loss", "name"), ("loss", "class_weights"), ("train", "batch_size"))


@dataclass(frozen=True)
class PowerLaws:
    """A task: curves of up to `max_epochs` epochs. Equal seeds give equal curves."""

    kind: Kind
    seed: int
    max_epochs: int
    grace_epochs: int = 3
    space: str = "all.yaml"

    @property
    def slow_family(self) -> str:
        return FAMILIES[int(self.uniform("slow family") * len(FAMILIES))]

    def metrics(self, recipe: Recipe, epoch: int) -> dict[str, Any]:
        noise = NOISE * self._rng(recipe["optimizer"], recipe["head"], epoch).standard_normal()
        return {METRIC: max(0.0, self.height(recipe) * self.progress(recipe, epoch) + noise)}

    def epoch_s(self, recipe: Recipe) -> float:
        """60 to 180 s by backbone, so that trials do not run in step."""
        return 60.0 + 120.0 * self.uniform("seconds", recipe["backbone"]["name"])

    def progress(self, recipe: Recipe, epoch: int) -> float:
        """The share of the last epoch's mIoU that is reached."""
        family = backbone_family(recipe["backbone"]["name"])
        base_s = SLOW if self.kind != "alike" and family == self.slow_family else QUICK
        slowness = base_s * 4.0 ** -self._deviation(family, recipe, NUMBERS[0])
        return (1 - 1 / (1 + epoch / slowness)) / (1 - 1 / (1 + self.max_epochs / slowness))

    def height(self, recipe: Recipe) -> float:
        """mIoU at the last epoch, without noise."""
        family = backbone_family(recipe["backbone"]["name"])
        height = 0.75 + 0.03 * (self.uniform("height", family) - 0.5)
        if family == self.slow_family:
            height += {"alike": 0.0, "slow_best": MARGIN, "slow_worse": -MARGIN}[self.kind]
        lost = sum(number[5] * self._deviation(family, recipe, number) ** 2 for number in NUMBERS)
        lost += sum(CHOICE_LOSS * self.uniform(family, key, recipe[part][key]) for part, key in CHOICES)
        return height - lost

    def _deviation(self, family: str, recipe: Recipe, number: tuple[str, str, float, float, bool, float]) -> float:
        """A setting minus its optimum, in whole ranges. Optima lie in the middle half of a range."""
        part, key, low, high, is_log, _ = number
        return place(recipe[part][key], low, high, is_log) - 0.25 - 0.5 * self.uniform(family, key)

    def uniform(self, *names: Any) -> float:
        """A number in [0, 1) that belongs to this task and these names."""
        return _uniform(f"{self.seed} {names}")

    def _rng(self, *names: Any) -> np.random.Generator:
        return np.random.default_rng([self.seed, zlib.crc32(repr(names).encode())])


def place(value: float, low: float, high: float, is_log: bool) -> float:
    """Where a range holds a value: 0 to 1."""
    return math.log(value / low) / math.log(high / low) if is_log else (value - low) / (high - low)


@lru_cache(maxsize=4096)
def _uniform(text: str) -> float:
    return float(np.random.default_rng(zlib.crc32(text.encode())).random())
