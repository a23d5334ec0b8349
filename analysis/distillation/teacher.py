"""What a fitted rule says of images, as a student learns it: log probabilities on a coarse grid, in a logit store.

Labelled images that fold models predicted have their out-of-fold probabilities, by members that never saw them. All
others are predicted by the rule's bundle.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch

from analysis.bundle.predictor import Predictor, class_scores
from analysis.ensembling.fitted_rule import FittedRule
from analysis.ensembling.stacker_file import read_stacker
from analysis.voting.probabilities import probabilities
from analysis.voting.votes import Float, Vote
from trainables.logits.predict_views import Inference, at_label_size, view_logits
from trainables.logits.shard_format import LogitHeader
from trainables.logits.sources import ImageSource
from trainables.logits.store import LogitStore, LogitWriter
from trainables.logits.view import View
from trainables.training.distillation import SOFT_VIEW

GRID_PX = 4  # side of a cell: the stride at which most heads predict
LEAST = 1e-6  # of a probability: a hard vote's zeros have no logarithm


@dataclass(frozen=True)
class StoredRule:
    """A fitted rule over its members' stored logits. Raises ValueError as `read_stacker` does."""

    rule: FittedRule  # of the used members
    stores: tuple[LogitStore, ...]  # (M,)
    vote: Vote

    @classmethod
    def of(cls, rule: FittedRule, stores: Sequence[LogitStore], folder: Path) -> StoredRule:
        """`folder` holds the stacker of a stacked rule."""
        return cls(rule, tuple(stores), vote_of(rule, folder))

    def probabilities(self, image_id: str) -> Float:
        """(K,H,W) that sum to 1 at every pixel."""
        height, width = self.stores[0].sizes[image_id]
        q = np.empty((len(self.stores), len(self.rule.weights[0]), height, width), np.float32)
        joined = zip(self.stores, self.rule.views, self.rule.temperatures, strict=True)
        for m, (store, views, temperature) in enumerate(joined):
            probabilities(store, views, image_id, q[m], temperature=temperature)
        scores = class_scores(q.reshape(*q.shape[:2], -1), self.vote)  # (K,P)
        shares: Float = scores / np.maximum(scores.sum(axis=0), np.float32(1e-12))
        return shares.reshape(q.shape[1:])


def vote_of(rule: FittedRule, folder: Path) -> Vote:
    """The vote of a rule over its used members. Raises ValueError where its stacker is not whole."""
    weights = np.array(rule.weights, np.float32)
    stacker = None if rule.stacker is None else read_stacker(folder, rule.stacker, *weights.shape)
    return Vote(rule.kind, weights, stacker)


def predicted(predictor: Predictor, images: ImageSource, ids: Sequence[str]) -> Iterator[tuple[str, Float]]:
    """Yield (image_id, probabilities (K,H,W)), one image at a time."""
    for image_id in ids:
        yield from predictor.probabilities_many({image_id: np.asarray(images.image(image_id))})


def network_says(
    inference: Inference, images: ImageSource, ids: Sequence[str]
) -> Iterator[tuple[str, Float]]:  # probabilities (K,H,W)
    """What one network says of images in its plain view, images of one size together (so not in the order of `ids`)."""
    for image_id, logits in view_logits(inference, images, ids, View()):
        full = at_label_size(torch.from_numpy(logits)[None], images.size(image_id))
        yield image_id, full.softmax(1)[0].numpy()


def out_of_fold(stored: StoredRule, ids: Sequence[str]) -> Iterator[tuple[str, Float]]:
    """Yield (image_id, probabilities (K,H,W)) by members that were not trained on the image."""
    for image_id in ids:
        yield image_id, stored.probabilities(image_id)


def write_soft_labels(folder: Path, header: LogitHeader, said: Iterable[tuple[str, Float]]) -> None:
    """Write what a teacher `said` of images, probabilities (K,H,W) each, as a store of log probabilities."""
    with LogitWriter(folder, header) as writer:
        for image_id, shares in said:
            writer.add(image_id, soft_logits(shares).astype(np.float16), (shares.shape[1], shares.shape[2]))


def soft_logits(shares: Float) -> Float:
    """Probabilities (K,H,W) -> logarithms (K,h,w) of their means over cells of GRID_PX."""
    height, width = (-(-side // GRID_PX) for side in shares.shape[1:])
    means = [cv2.resize(one, (width, height), interpolation=cv2.INTER_AREA) for one in shares]
    found: Float = np.log(np.maximum(np.stack(means), np.float32(LEAST)))
    return found


def teacher_header(classes: Sequence[str], data: str, split: str, fingerprint: str) -> LogitHeader:
    """The header of a store of soft labels; `data` and `split` are the run's fingerprints."""
    return LogitHeader(
        trial="teacher",
        recipe_hash="",
        family="",
        split="train",
        view=SOFT_VIEW,
        classes=tuple(classes),
        stride=GRID_PX,
        dtype="uint8",
        data_fingerprint=data,
        split_fingerprint=split,
        checkpoint_fingerprint=fingerprint,
    )


def is_written(folder: Path, header: LogitHeader, ids: Sequence[str]) -> bool:
    """Whether a whole store of these images, by this teacher, is there."""
    if not any(folder.glob("*.safetensors")):
        return False
    try:
        store = LogitStore(folder)
    except ValueError:
        return False  # cut short: it is written again
    return store.header == header and store.has(SOFT_VIEW, ids)


def teacher_fingerprint(rule: FittedRule, weights: Sequence[str], data: str, ids: Sequence[Sequence[str]]) -> str:
    """16 hex digits of everything that decides what a teacher says: its rule, the fingerprints of its members' weights
    and of the data, and which images it predicted how."""
    content = json.dumps([rule.model_dump(mode="json"), list(weights), data, [list(some) for some in ids]])
    return hashlib.sha256(content.encode()).hexdigest()[:16]
