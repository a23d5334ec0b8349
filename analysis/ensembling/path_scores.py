"""Scores many linear ensembles on the fitting sample at once, image by image.

Shares are (S,R): S ensembles over all R views of all members. Counted are, per image and class, the hits and the pixels
predicted and true: what an IoU and its bootstrap need.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from analysis.ensembling.bootstrap import Draws, Resampled, widened
from analysis.ensembling.pixel_sampling import FittingSample
from analysis.voting.votes import Float, Labels, Vote, labels_by_vote
from trainables.metrics import iou_of, mean_iou

SCORES_AT_ONCE = 2**16  # classes x pixels: bounds the memory

Counts = NDArray[np.int64]


@dataclass(frozen=True)
class Tally:
    """Pixels by image and class: where ensemble s was right, what it predicted, what is true."""

    hits: Counts  # (N,S,K)
    predicted: Counts  # (N,S,K)
    true: Counts  # (N,K)

    @staticmethod
    def sum(tallies: Sequence[Tally]) -> Tally:
        return Tally(
            np.sum([t.hits for t in tallies], axis=0),
            np.sum([t.predicted for t in tallies], axis=0),
            np.sum([t.true for t in tallies], axis=0),
        )

    def miou(self, kept: NDArray[np.bool_] | None = None) -> NDArray[np.float64]:
        """(S,) over the images `kept` (N,)."""
        images = slice(None) if kept is None else kept
        return _miou(self.hits[images].sum(0), self.predicted[images].sum(0), self.true[images].sum(0))

    def resampled(self, s: int, kept: NDArray[np.bool_], draws: Draws) -> Resampled:
        """Ensemble s on the images `kept`, and in every resample of them."""
        mious = _miou(*(
            _drawn(counts[kept].astype(np.float64), draws)
            for counts in (self.hits[:, s], self.predicted[:, s], self.true)
        ))  # fmt: skip
        none = np.empty((0,), np.float64)
        return widened(float(self.miou(kept)[s]), none, mious, none, draws.times.shape[1])


def _drawn(counts: NDArray[np.float64], draws: Draws) -> NDArray[np.float64]:  # (N,K) -> (R,K)
    units = np.zeros((draws.times.shape[1], counts.shape[1]))
    np.add.at(units, draws.unit_of, counts)
    out: NDArray[np.float64] = draws.times @ units
    return out


def _miou(
    hits: NDArray[np.number], predicted: NDArray[np.number], true: NDArray[np.number]
) -> NDArray[np.float64]:  # (..,K) each -> (..), 0 where no pixel is labelled
    return np.nan_to_num(mean_iou(iou_of(hits, predicted, true)))


def tally(sample: FittingSample, shares: Float, kept: NDArray[np.bool_]) -> Tally:
    """The counts of the ensembles (S,R) on the pixels of the images that are `kept` (N,)."""
    num_classes = sample.by_view[0].shape[1]
    pixels = np.flatnonzero(kept[sample.image])
    predicted = _predict(sample, shares, pixels)
    image, truth = sample.image[pixels].astype(np.int64) * num_classes, sample.truth[pixels]
    times = sample.times[pixels].astype(np.float64)

    def count(classes: Labels, times: NDArray[np.float64]) -> Counts:  # (n,) x2 -> (N,K)
        flat = np.bincount(image + classes, times, kept.size * num_classes)
        return flat.reshape(kept.size, num_classes).astype(np.int64)  # whole numbers below 2**53: exact

    return Tally(
        np.stack([count(truth, times * (row == truth)) for row in predicted], axis=1),
        np.stack([count(row, times) for row in predicted], axis=1),
        count(truth, times),
    )


def _predict(sample: FittingSample, shares: Float, pixels: NDArray[np.int64]) -> Labels:
    """(S,n): the labels that the ensembles (S,R) give to the pixels (n,) of the sample. Summed as votes are, so that a
    pixel's label does not depend on which pixels lie beside it, as that of a product of matrices may."""
    num_classes = sample.by_view[0].shape[1]
    votes = [Vote("soft", np.repeat(row[:, None], num_classes, 1)) for row in shares]
    out = np.empty((len(shares), pixels.size), np.uint8)
    width = max(256, SCORES_AT_ONCE // num_classes)
    for start in range(0, pixels.size, width):
        here = pixels[start : start + width]
        q = np.concatenate([by_view[:, :, here] for by_view in sample.by_view])  # (R,K,c)
        out[:, start : start + here.size] = labels_by_vote(q, votes)
    return out
