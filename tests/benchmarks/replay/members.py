"""Models that err together: a replay whose trials have predictions, so that an ensemble of them can be scored.

A member's logits at a pixel are its skill at the true class plus noise, which is a sum of shares: common to all members
(hard pixels), of the backbone family, of the settings (near settings err alike: random Fourier features, Rahimi and
Recht 2007), and its own. Each share has a part that is the same all over an image. Families are good at different
classes.
"""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analysis.weight_search.greedy_selection import select_members
from analysis.weight_search.pixels import Pixels
from analysis.weight_search.sample_confusion import sample_confusion
from trainables.metrics import miou
from trainables.ray_trainable import METRIC
from trainables.recipe.recipe import backbone_family

from .curves import FAMILIES, NUMBERS, PowerLaws, place
from .simulator import Recipe

CLASS_SHARES = np.array([6.0, 3.0, 1.5, 0.6, 0.3])  # of a Dirichlet: an image's classes
PER_IMAGE, NUM_FEATURES = 256, 12  # pixels of an image; random features of the settings
SHARES = {"common": 0.6, "family": 0.12, "settings": 0.18, "own": 0.1}  # of the noise's variance
NOISE, IMAGE_SHARE, BIAS = 1.2, 0.3, 0.35  # logits; share of it that is an image's; logits by family and class
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Members:
    """A task of `PowerLaws` whose trials' last mIoU is measured on the val pixels of their predictions."""

    task: PowerLaws
    num_val: int = 40  # images
    num_holdout: int = 200

    def metrics(self, recipe: Recipe, epoch: int) -> dict[str, Any]:
        ratio = self.val_miou(recipe) / self.task.height(recipe)
        return {METRIC: self.task.metrics(recipe, epoch)[METRIC] * ratio}

    def epoch_s(self, recipe: Recipe) -> float:
        return self.task.epoch_s(recipe)

    @cached_property
    def num_val_pixels(self) -> int:
        return self.num_val * PER_IMAGE

    @cached_property
    def truth(self) -> NDArray[np.uint8]:
        """(P,), val first, image by image."""
        rng = np.random.default_rng([self.task.seed, 1])
        shares = rng.dirichlet(CLASS_SHARES, self.num_val + self.num_holdout)
        return np.concatenate([rng.choice(len(CLASS_SHARES), PER_IMAGE, p=row) for row in shares]).astype(np.uint8)

    @cached_property
    def fields(self) -> dict[str, Floats]:
        """What members share of their noise, each (K,P)."""
        return {name: self._field(name) for name in ("common", *FAMILIES, *map(str, range(NUM_FEATURES)))}

    def _field(self, name: str) -> Floats:
        rng = np.random.default_rng([self.task.seed, 2, zlib.crc32(name.encode())])
        num_classes, num_images = len(CLASS_SHARES), self.num_val + self.num_holdout
        image = np.repeat(rng.standard_normal((num_classes, num_images), np.float32), PER_IMAGE, axis=1)
        pixel = rng.standard_normal((num_classes, self.truth.size), np.float32)
        return np.float32(np.sqrt(IMAGE_SHARE)) * image + np.float32(np.sqrt(1 - IMAGE_SHARE)) * pixel

    def probabilities(self, recipe: Recipe) -> Floats:
        """(K,P) at the last epoch."""
        family = backbone_family(recipe["backbone"]["name"])
        skill = 12.0 * (self.task.height(recipe) - 0.5)  # logits
        bias = [BIAS * (self.task.uniform("class", family, k) - 0.5) for k in range(len(CLASS_SHARES))]
        noise = np.sqrt(SHARES["common"]) * self.fields["common"] + np.sqrt(SHARES["family"]) * self.fields[family]
        noise += np.sqrt(SHARES["settings"]) * self._of_settings(recipe)
        noise += np.sqrt(SHARES["own"]) * self._field(json.dumps(recipe, sort_keys=True))
        logits = NOISE * noise
        logits[self.truth, np.arange(self.truth.size)] += skill + skill * np.array(bias)[self.truth]
        logits -= logits.max(0)
        q = np.exp(logits)
        return (q / q.sum(0)).astype(np.float32)

    def _of_settings(self, recipe: Recipe) -> Floats:
        """Of unit variance; two recipes' fields correlate by how near their settings are."""
        at = [place(recipe[part][key], low, high, is_log) for part, key, low, high, is_log, _ in NUMBERS]
        at += [float(recipe["loss"]["name"] == name) for name in ("cross_entropy", "ce_dice", "ce_lovasz")]
        rng = np.random.default_rng([self.task.seed, 3])
        waves, phases = rng.normal(scale=2.0, size=(NUM_FEATURES, len(at))), rng.uniform(0, 2 * np.pi, NUM_FEATURES)
        weights = np.cos(waves @ np.array(at) + phases)
        weights /= np.linalg.norm(weights)
        return sum(np.float32(w) * self.fields[str(j)] for j, w in enumerate(weights))  # type: ignore[return-value]

    def val_miou(self, recipe: Recipe) -> float:
        key = json.dumps(recipe, sort_keys=True)
        if key not in self._known:
            q = self.probabilities(recipe)[None, :, : self.num_val_pixels]
            self._known[key] = score(q, np.ones((1, len(CLASS_SHARES)), np.float32), self.truth[: self.num_val_pixels])
        return self._known[key]

    @cached_property
    def _known(self) -> dict[str, float]:
        return {}


def score(q: Floats, weights: Floats, truth: NDArray[np.uint8]) -> float:
    """mIoU of a soft vote: q (M,K,P), weights (M,K)."""
    return float(miou(sample_confusion(np.ascontiguousarray(q), weights, truth)))


def greedy(q: Floats, truth: NDArray[np.uint8]) -> Floats:
    """The product's greedy selection: weights (M,K)."""
    return select_members(Pixels(np.ascontiguousarray(q), truth))
