"""Validation on a few images: a replay whose scores are those of a fold, so that a search can overtune to it.

On fold f a recipe's mIoU is its true height plus what is common to all recipes there (easy or hard images) plus what
the images of f do for this recipe alone. The latter is a sum of shares: of the backbone family, of the settings (near
settings err alike: random Fourier features, Rahimi and Recht 2007), so that a sampler can learn it, and its own.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from search.engine.asha import bracket_in
from trainables.ray_trainable import METRIC
from trainables.recipe.recipe import backbone_family

from .curves import NUMBERS, PowerLaws, place
from .simulator import Recipe

COMMON = 0.03  # mIoU, standard deviation over folds of what is common to all recipes
SHARES = {"family": 0.3, "settings": 0.4, "own": 0.3}  # of the variance of what is a recipe's alone
NUM_FEATURES = 24


@dataclass
class FoldScores:
    """A task whose trials are scored on one fold (`num_folds=1`), or in turn on each in the order in which they begin.

    `spread`: standard deviation over images of a recipe's own score on a fold, beside what is common. `correct`: what
    is reported is raw, less the true common effect (which no search knows), or less `fold_effects` of the epoch's
    scores so far.
    """

    task: PowerLaws
    spread: float
    num_folds: int = 1
    correct: str = "raw"  # raw | known | estimated
    fold_of: dict[str, int] = field(default_factory=dict)  # recipe -> fold
    seen: dict[int, dict[str, tuple[str, int, float]]] = field(default_factory=dict)  # epoch -> recipe -> what and raw

    def metrics(self, recipe: Recipe, epoch: int) -> dict[str, Any]:
        key = json.dumps(recipe, sort_keys=True)
        fold = self.fold_of.setdefault(key, len(self.fold_of) % self.num_folds)
        progress = self.task.progress(recipe, epoch)
        raw = self.task.metrics(recipe, epoch)[METRIC] + progress * (self.common(fold) + self.alone(recipe, fold))
        self.seen.setdefault(epoch, {})[key] = (bracket_in(recipe), fold, raw)
        if self.correct == "known":
            raw -= progress * self.common(fold)
        elif self.correct == "estimated":
            raw -= fold_effects(list(self.seen[epoch].values()), self.num_folds)[fold]
        return {METRIC: max(0.0, raw)}

    def epoch_s(self, recipe: Recipe) -> float:
        return self.task.epoch_s(recipe)

    def common(self, fold: int) -> float:
        return COMMON * self._normal("common", fold)

    def alone(self, recipe: Recipe, fold: int) -> float:
        family = backbone_family(recipe["backbone"]["name"])
        parts = {
            "family": self._normal("family", family, fold),
            "settings": self._of_settings(recipe, fold),
            "own": self._normal("own", json.dumps(recipe, sort_keys=True), fold),
        }
        return self.spread * sum(SHARES[name] ** 0.5 * part for name, part in parts.items())

    def _of_settings(self, recipe: Recipe, fold: int) -> float:
        at = [place(recipe[part][key], low, high, is_log) for part, key, low, high, is_log, _ in NUMBERS]
        rng = np.random.default_rng([self.task.seed, 7, fold])
        waves, phases = rng.normal(scale=3.0, size=(NUM_FEATURES, len(at))), rng.uniform(0, 2 * np.pi, NUM_FEATURES)
        return float(
            (2 / NUM_FEATURES) ** 0.5 * rng.standard_normal(NUM_FEATURES) @ np.cos(waves @ np.array(at) + phases)
        )

    def _normal(self, *names: Any) -> float:
        return float(self.task._rng(*names).standard_normal())


def fold_effects(scores: Sequence[tuple[str, int, float]], num_folds: int) -> NDArray[np.float64]:
    """What is common to all scores of each fold (F,), from scores (bracket, fold, mIoU): the best linear unbiased
    predictor of random effects of folds beside fixed ones of brackets (Henderson 1975, eq. 1.3), with variances from a
    one-way analysis of variance of what brackets leave. All 0 where nothing can be told apart."""
    effects = np.zeros(num_folds)
    if num_folds < 2 or len(scores) < 2 * num_folds:
        return effects
    names = sorted({bracket for bracket, _, _ in scores})
    fixed = np.eye(len(names))[[names.index(bracket) for bracket, _, _ in scores]]  # (n,brackets)
    folds, values = np.array([fold for _, fold, _ in scores]), np.array([value for _, _, value in scores])
    both, count = np.hstack([fixed, np.eye(num_folds)[folds]]), np.bincount(folds, minlength=num_folds)
    means = np.linalg.lstsq(fixed, values, rcond=None)[0]
    for _ in range(3):  # the variances and the brackets' means depend on each other
        left = values - fixed @ means
        raw = np.bincount(folds, left, num_folds) / np.maximum(count, 1)
        within = float(((left - raw[folds]) ** 2).sum() / max(1, len(values) - num_folds))
        between = float(np.var(raw[count > 0], ddof=1)) - within / count[count > 0].mean()
        if between <= 0:
            return np.zeros(num_folds)
        shrinking = np.diag([0.0] * len(names) + [within / between] * num_folds)
        solved = np.linalg.solve(both.T @ both + shrinking, both.T @ values)
        means, effects = solved[: len(names)], solved[len(names) :]
    return effects


def corrected(scores: Mapping[str, tuple[str, int, float]], num_folds: int) -> dict[str, float]:
    """Recipe -> its score less the effect of its fold, as all scores tell it."""
    effects = fold_effects(list(scores.values()), num_folds)
    return {key: value - effects[fold] for key, (_, fold, value) in scores.items()}
