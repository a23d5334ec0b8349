"""Lineage of stored logits: which models predicted which images, and which images each of them was trained on.

lineage.json lies beside the shards of a member that is several models, one per fold. Its fingerprint is in every
shard's header, and every reader of a store checks it: a logit of an image that its model trained on is refused.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from trainables.files import write_text
from trainables.recipe.config import Config

LINEAGE = "lineage.json"
FORMAT: Literal["segsearch-lineage/1"] = "segsearch-lineage/1"


class FoldModel(Config):
    """One of a member's models."""

    weights: str  # fingerprint of its file
    train_ids: tuple[str, ...]
    predicts: tuple[str, ...]  # of val, nothing of a refit; the hold-out is predicted by all models of a member


class Lineage(Config):
    """lineage.json."""

    format: Literal["segsearch-lineage/1"] = FORMAT
    models: tuple[FoldModel, ...]

    @property
    def fingerprint(self) -> str:
        """16 hex digits of everything in it."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()[:16]

    def check(self, split: Literal["val", "holdout"], image_ids: Iterable[str], where: object) -> None:
        """Raises ValueError where the model that predicted an image was trained on it, or none is named for it."""
        trained = [frozenset(model.train_ids) for model in self.models]
        predicts = [frozenset(model.predicts) for model in self.models]
        every = range(len(self.models))
        leaks: list[str] = []
        orphans: list[str] = []
        for image_id in sorted(image_ids):
            used = every if split == "holdout" else [m for m in every if image_id in predicts[m]]
            leaks += [f"'{image_id}' by model {m}" for m in used if image_id in trained[m]]
            orphans += [] if used else [image_id]
        for rule, found in (("be of images that its model was not trained on", leaks), ("name its model", orphans)):
            if found:
                listed = ", ".join(found[:3]) + (", ..." if len(found) > 3 else "")
                raise ValueError(
                    f"{where}: every logit of {split} must {rule}, got {len(found)} that do not ({listed}); delete "
                    "the folder and run the logits stage again, or the folds stage where the models are wrong"
                )


def trained_on(weights: Path) -> tuple[str, ...]:
    """The images that a fold's model was trained on, as its training wrote them beside its weights. Raises ValueError
    where it did not."""
    path = weights.with_suffix(".json")
    try:
        return tuple(str(image_id) for image_id in json.loads(path.read_text(encoding="utf-8"))["train_ids"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} must say what {weights.name} was trained on (train_ids), got {type(error).__name__}: {error}; "
            "delete both and run the folds stage again"
        ) from None


def write_lineage(folder: Path, lineage: Lineage) -> None:
    """Write lineage.json, whole or not at all."""
    write_text(folder / LINEAGE, lineage.model_dump_json(indent=1) + "\n")


def read_lineage(folder: Path, fingerprint: str) -> Lineage:
    """The lineage of a store whose shards carry this fingerprint. Raises ValueError where it is another or broken."""
    path = folder / LINEAGE
    remedy = "delete the folder and run the logits stage again"
    try:
        lineage = Lineage.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise ValueError(f"logits of fold models need their lineage, got no {path}; {remedy}") from None
    except ValidationError as error:
        raise ValueError(f"{path} must have the format {FORMAT}, got {error.errors()[0]['msg']}; {remedy}") from None
    if lineage.fingerprint != fingerprint:
        raise ValueError(
            f"{path} must have the fingerprint {fingerprint} of its shards, got {lineage.fingerprint}: it was changed, "
            f"or the shards are of other models; {remedy}"
        )
    return lineage
