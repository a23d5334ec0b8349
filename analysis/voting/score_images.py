"""Scores votes on all pixels of images: the passes over stored logits.

Counts are (N,V,K,K) int32, of V votes on N images. An image's probabilities in one view configuration are made once,
whatever the number of votes, only those of members that a vote uses, and where the executor reads them: only counts
come back.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from analysis.voting.executor import LOCAL, Executor
from analysis.voting.labelled_logits import LabelledLogits
from analysis.voting.probabilities import probabilities
from analysis.voting.view_config import ViewConfig, VoteBatch
from analysis.voting.votes import Labels, Vote, labels_by_vote, used_by, vote_labels
from analysis.voting.votes_torch import DeviceCounter
from trainables.logits.store import LogitStore
from trainables.metrics import confusion

Seen = tuple[str, tuple[str, ...], float]  # an image through views at a temperature


class Counter(Protocol):
    """Counts (V,K,K) of each vote on one image; keeps memory from image to image, and an image's probabilities from
    one view configuration to the next."""

    def count(
        self, view_config: ViewConfig, image_id: str, label: Labels, votes: Sequence[Vote]
    ) -> NDArray[np.int64]: ...


def score_images(
    data: LabelledLogits,
    batches: Sequence[Sequence[VoteBatch]],
    what: str,
    *,
    fold_of: Sequence[int] | NDArray[np.int64] | None = None,
    executor: Executor = LOCAL,
) -> list[NDArray[np.int32]]:
    """Counts (N,V,K,K) per batch: of image i under each vote of each of `batches[fold_of[i]]` (of `batches[0]`, where
    there are no folds), over all its labelled pixels. `what` names the pass in progress messages.

    Every fold must have the same numbers of batches and votes.
    """
    job = Scoring.of(data, batches, fold_of, executor.device)
    out = job.empty(len(data.ids))
    done = 0
    for part in executor(job, data.ids, what):
        here = slice(done, done + len(part[0]))
        for counts, few in zip(out, part, strict=True):
            counts[here] = few
        done = here.stop
    assert done == len(data.ids)
    return out


@dataclass(frozen=True)
class Scoring:
    """The job of `score_images`."""

    data: LabelledLogits
    batches: tuple[tuple[VoteBatch, ...], ...]
    fold_of: Mapping[str, int]  # image_id -> row of batches
    device: str | None

    @classmethod
    def of(
        cls,
        data: LabelledLogits,
        batches: Sequence[Sequence[VoteBatch]],
        fold_of: Sequence[int] | NDArray[np.int64] | None,  # (N,); all in the first where None
        device: str | None,
    ) -> Scoring:
        return cls(data, tuple(map(tuple, batches)), row_of(data.ids, fold_of), device)

    def empty(self, num_images: int) -> list[NDArray[np.int32]]:
        """Room for the counts (n,V,K,K) of so many images, per batch."""
        side = self.data.num_classes
        return [np.empty((num_images, len(batch.votes), side, side), np.int32) for batch in self.batches[0]]

    def __call__(self, ids: Sequence[str]) -> list[NDArray[np.int32]]:
        """Counts (n,V,K,K) per batch."""
        stores = self.data.stores
        counter: Counter = DeviceCounter(stores, self.device) if self.device else KernelCounter(stores)
        out = self.empty(len(ids))
        for i, image_id in enumerate(ids):
            label = self.data.label(image_id)
            batches = self.batches[self.fold_of[image_id]]
            for view_config in dict.fromkeys(b.view_config for b in batches):
                mine = [(out[b], batch.votes) for b, batch in enumerate(batches) if batch.view_config == view_config]
                distinct = {vote.key: vote for _, votes in mine for vote in votes}
                counted = counter.count(view_config, image_id, label, list(distinct.values()))
                found = dict(zip(distinct, counted, strict=True))
                for counts, votes in mine:
                    for v, vote in enumerate(votes):
                        counts[i, v] = found[vote.key]
        return out


class KernelCounter:
    """By the CPU's kernels."""

    def __init__(self, stores: Sequence[LogitStore]) -> None:
        self.stores, self.memory = stores, np.empty(0, np.float32)
        self.seen: dict[int, Seen] = {}  # what lies in memory, by member

    def count(self, view_config: ViewConfig, image_id: str, label: Labels, votes: Sequence[Vote]) -> NDArray[np.int64]:
        num_classes = len(self.stores[0].header.classes)
        shape = (len(self.stores), num_classes, *label.shape)
        size = int(np.prod(shape))
        if self.memory.size < size:
            self.memory, self.seen = np.empty(size, np.float32), {}
        q = self.memory[:size].reshape(shape)  # (M,K,H,W)
        for m in used_by(votes):
            wanted = image_id, view_config.views[m], view_config.temperatures[m]
            if self.seen.get(m) != wanted:
                probabilities(
                    self.stores[m], view_config.views[m], image_id, q[m], temperature=view_config.temperatures[m]
                )
                self.seen[m] = wanted
        labelled = labels_by_vote(q.reshape(len(q), num_classes, -1), votes)  # (V,P)
        return np.stack([confusion(label, row.reshape(label.shape), num_classes) for row in labelled])


def row_of(ids: Sequence[str], fold_of: Sequence[int] | NDArray[np.int64] | None) -> dict[str, int]:
    """image_id -> its fold; 0 for all where there are none."""
    folds = np.zeros(len(ids), np.int64) if fold_of is None else np.asarray(fold_of, np.int64)
    return dict(zip(ids, folds.tolist(), strict=True))


def label_map(stores: Sequence[LogitStore], batch: VoteBatch, image_id: str) -> Labels:
    """The labels (H,W) of a batch's only vote on one image; reads the members that have a weight in it, no others."""
    [vote] = batch.votes
    height, width = stores[0].sizes[image_id]
    q = np.empty((len(vote.used), vote.weights.shape[1], height, width), np.float32)
    for row, m in zip(q, vote.used, strict=True):
        probabilities(
            stores[m], batch.view_config.views[m], image_id, row, temperature=batch.view_config.temperatures[m]
        )
    labelled = vote_labels(q.reshape(*q.shape[:2], -1), vote.of_used())
    return labelled.reshape(height, width)
