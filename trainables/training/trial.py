"""One trial: its recipe, data, device and folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from trainables.data.augment.train_set import ExtraImages
from trainables.data.cache import Cache
from trainables.data.index import Split
from trainables.recipe.recipe import Recipe
from trainables.training.distillation import SoftLabels
from trainables.training.self_training import Consistency


@dataclass(frozen=True)
class Trial:
    """A recipe, its data and its place. Plain values: it can be sent to another process."""

    recipe: Recipe
    cache: Cache
    split: Split
    out_dir: Path
    device: str
    snapshots: int = 0  # of how many last epochs the evaluated weights are kept
    soft: SoftLabels | None = None  # what a teacher says of the training images
    extra: ExtraImages | None = None  # those of the training images that have a share of every batch
    consistency: Consistency | None = None  # how it learns from its own predictions of the extra images
    start_from: Path | None = None  # weights to begin with, in place of the recipe's own
