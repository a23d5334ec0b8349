"""The passes over stored logits: one that draws the fitting sample, others that score votes on all pixels.

Enters: a `LogitStore` a member, image ids, labels. Leaves: a `FittingSample` with every view's probabilities
(V,K,P) float32 a member, or counts (N,V,K,K) int32 of V votes on N images. An image's probabilities are made once,
whatever the number of votes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from analysis.pixels import probabilities, sample_pixels, sample_share, sampled_probabilities
from analysis.tta import mean_of_views
from analysis.voting import Float, Labels, Vote, labels_by_vote
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
class FittingSample:
    """A uniform sample of labelled pixels; `by_view[m]` is (V_m,K,P), its rows the views `names[m]`."""

    names: Views
    by_view: tuple[Float, ...]
    truth: Labels  # (P,)
    image: NDArray[np.int32]  # (P,) position of the pixel's image in the ids it was drawn from

    def reordered(self, order: Sequence[int]) -> FittingSample:
        names = tuple(self.names[m] for m in order)
        return FittingSample(names, tuple(self.by_view[m] for m in order), self.truth, self.image)

    def probabilities(self, views: Views, out: Float | None = None) -> Float:
        """(M,K,P): each member's mean over its chosen views, written into `out` where it is given."""
        if out is None:
            out = np.empty((len(views), *self.by_view[0].shape[1:]), np.float32)
        for m, chosen in enumerate(views):
            mean_of_views(self.by_view[m], self.names[m], chosen, out[m])
        return out


@dataclass(frozen=True)
class Ballot:
    """Votes that are scored on the same probabilities: those of each member's `views`."""

    views: Views
    votes: tuple[Vote, ...]


def draw_sample(
    stores: Sequence[LogitStore],
    names: Views,
    ids: Sequence[str],
    labels: LabelSource,
    sample_bytes: int,
    seed: int,
    report: Report,
) -> FittingSample:
    """Probabilities of every view of `names` at the same share of every image's labelled pixels, within
    `sample_bytes`."""
    num_classes = len(stores[0].header.classes)
    sizes = stores[0].sizes
    num_pixels = sum(sizes[image_id][0] * sizes[image_id][1] for image_id in ids)
    share = sample_share(sample_bytes, num_pixels, num_classes, [len(views) for views in names])
    where, truths = [], []
    for image_id in ids:
        label = _label(labels, image_id, stores)
        where.append(sample_pixels(label, share, seed, image_id))
        truths.append(label.reshape(-1)[where[-1]])
    ends = np.cumsum([len(flat) for flat in where])
    report(f"fitting sample: {ends[-1]:,} pixels of {len(ids)} images, {share:.1%} of them")
    by_view = tuple(np.empty((len(views), num_classes, ends[-1]), np.float32) for views in names)
    for image_id, flat, end in zip(ids, where, ends, strict=True):
        for store, views, target in zip(stores, names, by_view, strict=True):
            for row, view in zip(target, views, strict=True):
                sampled_probabilities(store, view, image_id, flat, row[:, end - len(flat) : end])
    image = np.repeat(np.arange(len(ids), dtype=np.int32), [len(flat) for flat in where])
    return FittingSample(names, by_view, np.concatenate(truths), image)


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
        label = _label(labels, image_id, stores)
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


def _label(labels: LabelSource, image_id: str, stores: Sequence[LogitStore]) -> Labels:
    label = np.asarray(labels.label(image_id))
    for store in stores:
        if store.sizes[image_id] != label.shape:
            raise ValueError(
                f"logits must be for the label's own size, got {store.sizes[image_id]} in {store.folder} and a label "
                f"of {label.shape} for image '{image_id}'; write the logits again with this data card"
            )
    return label
