"""The passes over stored logits that score votes on all pixels.

Enters: a `LogitStore` a member, image ids, labels. Leaves: counts (N,V,K,K) int32 of V votes on N images. An image's
probabilities are made once, whatever the number of votes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from analysis.pixels import probabilities
from analysis.voting import Float, Labels, Vote, labels_by_vote, vote_labels
from trainables.logits import LogitStore
from trainables.metrics import confusion

Views = tuple[tuple[str, ...], ...]  # a member's views, for each member
Report = Callable[[str], None]


class LabelSource(Protocol):
    """Anything with an image's labels: the cache, or a test's dict."""

    def label(self, image_id: str) -> Labels:
        """(H,W) uint8, 255 for ignored pixels."""
        ...


@dataclass(frozen=True)
class Ballot:
    """Votes that are scored on the same probabilities: those of each member's `views`."""

    views: Views
    votes: tuple[Vote, ...]


def score_images(
    stores: Sequence[LogitStore],
    ids: Sequence[str],
    labels: LabelSource,
    ballots_of: Callable[[int], Sequence[Ballot]],
    report: Report,
    what: str,
) -> list[NDArray[np.int32]]:
    """Counts (N,V,K,K) a ballot: of image i under each vote of each of `ballots_of(i)`, over all its labelled
    pixels.

    Every image must have the same numbers of ballots and votes.
    """
    num_classes = len(stores[0].header.classes)
    out = [np.zeros((len(ids), len(b.votes), num_classes, num_classes), np.int32) for b in ballots_of(0)]
    memory = np.empty(0, np.float32)
    for i, image_id in enumerate(ids):
        label = label_of(labels, image_id, stores)
        memory, shape = _at_least(memory, len(stores), num_classes, label.shape)
        ballots = ballots_of(i)
        for views in dict.fromkeys(b.views for b in ballots):
            q = memory[: int(np.prod(shape))].reshape(shape)  # (M,K,H,W)
            for m, store in enumerate(stores):
                probabilities(store, views[m], image_id, q[m])
            flat = q.reshape(len(stores), num_classes, -1)
            mine = [(out[b], ballot.votes) for b, ballot in enumerate(ballots) if ballot.views == views]
            distinct = {vote.key: vote for _, votes in mine for vote in votes}
            labelled = labels_by_vote(flat, list(distinct.values()))  # (V,P)
            found = {
                key: confusion(label, row.reshape(label.shape), num_classes)
                for key, row in zip(distinct, labelled, strict=True)
            }
            for counts, votes in mine:
                for v, vote in enumerate(votes):
                    counts[i, v] = found[vote.key]
        if (i + 1) % max(1, len(ids) // 5) == 0:
            report(f"{what}: {i + 1} of {len(ids)} images scored")
    return out


def _at_least(
    memory: Float, num_members: int, num_classes: int, size: tuple[int, ...]
) -> tuple[Float, tuple[int, ...]]:
    shape = (num_members, num_classes, *size)
    needed = int(np.prod(shape))
    return (memory if memory.size >= needed else np.empty(needed, np.float32)), shape


def label_of(labels: LabelSource, image_id: str, stores: Sequence[LogitStore]) -> Labels:
    label = np.asarray(labels.label(image_id))
    for store in stores:
        if store.sizes[image_id] != label.shape:
            raise ValueError(
                f"logits must be for the label's own size, got {store.sizes[image_id]} in {store.folder} and a label "
                f"of {label.shape} for image '{image_id}'; write the logits again with this data card"
            )
    return label


def label_map(stores: Sequence[LogitStore], ballot: Ballot, image_id: str) -> Labels:
    """The labels (H,W) of a ballot's only vote on one image; reads the members that have a weight in it, no others."""
    [vote] = ballot.votes
    height, width = stores[0].sizes[image_id]
    q = np.empty((len(vote.used), vote.weights.shape[1], height, width), np.float32)
    for row, m in zip(q, vote.used, strict=True):
        probabilities(stores[m], ballot.views[m], image_id, row)
    labelled = vote_labels(q.reshape(*q.shape[:2], -1), Vote(vote.kind, vote.weights[vote.used]))
    return labelled.reshape(height, width)
