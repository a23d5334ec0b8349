"""The pixels that weights are fitted to: all per-pixel work of the exact search.

`Pixels` holds probabilities (M,K,P) float32, labels (P,) uint8 (255: ignored) and strata. For given weights it returns
confusion counts, histograms and events, a few kilobytes each, which `coordinate_search` works with.

Memory beside the sample: fourteen bytes per pixel, and for one class at a time 4 M + 9 (above 85 classes 4 M + 10) for
each pixel that it can win or lose.
"""

from __future__ import annotations

import math
import mmap
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from analysis.voting.votes import BLOCK, Float, Labels
from analysis.weight_search.line_search import Counts, Events, WeightInterval
from analysis.weight_search.sample_confusion import confusion_with_each, sample_confusion
from analysis.weight_search.strata import Strata, of_pixels
from analysis.weight_search.threshold_kernels import (
    flagged_events,
    line_events,
    scores_of,
    weight_events,
    weight_histogram,
    wins,
)
from analysis.weight_search.top_scores import contested, rescore, top_two
from trainables.metrics import confusion


@dataclass(frozen=True)
class WeightBounds:
    """How far a class's weights may move while it is open, each (M,): all of them within [low, high], and one member
    alone further down by `drop` and up by `extra`. `column`: they move along it alone, in one line; of what nearly all
    pixels are within reach of, only scores are then held."""

    low: Float
    high: Float
    drop: Float
    extra: Float
    column: Float | None = None


class Pixels:
    """A sample's pixels. A line runs through the pixels of the open class: `member` m moves W[m,k] itself, None scales
    the whole column, whose weight is then 1."""

    def __init__(self, q: Float, truth: Labels, strata: Strata | None = None) -> None:
        assert q.flags.c_contiguous, "the kernels stream along pixels"
        self.q, self.truth, self.strata = q, truth, of_pixels(strata, truth.size)
        self.ends, self.weighs = self.strata.arrays
        num_pixels, num_kinds = truth.size, 3 * q.shape[1]
        assert num_pixels < 2**31
        # made when they are needed; of the next four only as much is touched, and so held, as one class can win or lose
        self.state: tuple[Float, Float, Float, Labels, Labels] | None = None
        self.scores, self.rivals = np.empty((2, num_pixels), np.float32)
        self.kinds = np.empty(num_pixels, np.uint8 if num_kinds <= 256 else np.uint16)
        self.columns = np.empty((-(-num_pixels // BLOCK), q.shape[0], 1, BLOCK + 16), np.float32)
        old, new, true = self.columns.reshape(-1).view(np.uint8)[: 3 * num_pixels].reshape(3, num_pixels)
        self.spare = self.scores, old, new, true, self.rivals.view(np.int32)  # events, while no class is open
        self.bounds = np.zeros(len(self.strata.ends) + 1, np.int64)
        self.sizes = np.zeros((len(self.strata.ends), num_kinds), np.int64)

    @property
    def shape(self) -> tuple[int, int]:
        return self.q.shape[0], self.q.shape[1]

    def num_labelled(self) -> int:
        return int(np.count_nonzero(self.truth != 255))

    def every(self, step: int) -> tuple[Float, Labels, Strata]:
        """Every `step`-th labelled pixel: probabilities, labels, how often each counts."""
        picked = np.flatnonzero(self.truth != 255)[::step]
        q = _mapped((*self.shape, picked.size))
        return np.take(self.q, picked, axis=2, out=q, mode="clip"), self.truth[picked], self.strata.of(picked)

    def confusion(self, weights: Float) -> Counts:
        return sample_confusion(self.q, weights, self.truth, self.strata)

    def confusion_with_each(self, weights: Float) -> Counts:
        return confusion_with_each(self.q, weights, self.truth, self.strata)

    def restart(self, weights: Float) -> Counts:
        """Takes these weights (M,K). -> counts (K,K) under them."""
        if self.state is None:
            best, second, third = np.empty((3, self.truth.size), np.float32)
            who, runner = np.empty((2, self.truth.size), np.uint8)
            self.state = best, second, third, who, runner
        assert self.state is not None
        self.weights = weights.copy()
        top_two(self.q, self.weights, *self.state)
        counts, begin = np.zeros((self.q.shape[1],) * 2, np.int64), 0
        for end, weight in zip(self.strata.ends, self.strata.weights, strict=True):
            counts += weight * confusion(self.truth[begin:end], self.state[3][begin:end], self.q.shape[1])
            begin = end
        return counts

    def open(self, k: int, reach: WeightBounds) -> Counts:
        """Gathers the pixels that class k can win or lose within reach. -> what it has of them, as `won` says."""
        assert self.state is not None
        self.k, self.reach = k, reach
        self.column = np.full(self.q.shape[0], np.nan, np.float32)
        if reach.column is not None:
            return self._per_class(self._gather(reach.column))
        won = np.empty_like(self.sizes)
        num, _ = self._contested(0, self.columns, 0, self.bounds, self.sizes, won)
        self.score = self.scores[:num]
        return self._per_class(won)

    def _contested(self, begin: int, columns: Float, num: int, *counts: Counts) -> tuple[int, int]:
        """The pixels in reach from the `begin`-th on, behind `num` others. -> how many, where to go on"""
        r = self.reach
        found: tuple[int, int] = contested(
            self.q, self.truth, self.ends, self.state, self.weights, self.k, (r.low, r.high, r.drop, r.extra),
            begin, columns, self.rivals[num:], self.kinds[num:], *counts,
        )  # fmt: skip
        return found

    def _gather(self, column: Float) -> Counts:
        """Scores under a column (M,) of all pixels in reach; the columns of only a few are held at once. -> (S,3K)"""
        self.bounds[:], self.sizes[:], won = 0, 0, np.zeros_like(self.sizes)
        columns, begin, num = self.columns[: -(-self.columns.shape[0] // 8)], 0, 0
        while begin < self.truth.size:
            counts = np.empty_like(self.bounds), np.empty_like(self.sizes), np.empty_like(won)
            more, begin = self._contested(begin, columns, num, *counts)
            for total, some in zip((self.bounds, self.sizes, won), counts, strict=True):
                total += some
            scores_of(columns, column[:, None], self.scores[num : num + more])
            num += more
        self.score, self.column = self.scores[:num], column.copy()
        return won

    def _score_at(self, column: Float) -> None:
        if np.array_equal(column, self.column):
            return
        if self.reach.column is not None:
            self._gather(column)
        else:
            scores_of(self.columns, column[:, None], self.score)
            self.column = column.copy()

    def _per_class(self, won: Counts) -> Counts:  # (S,3K) -> (K,3)
        weighted: Counts = (won * self.weighs[:, None]).sum(0).reshape(-1, 3)
        return weighted

    def won_counts(self, column: Float) -> Counts:
        """(K,3): the pixels that class k has under a column (M,) by their best other class and by whether that is the
        truth, k is, or neither."""
        self._score_at(column)
        out = np.empty_like(self.sizes)
        wins(self.score, self.rivals, self.kinds, self.bounds, out)
        return self._per_class(out)

    def histogram(self, member: int | None, column: Float, span: WeightInterval) -> Counts:
        """(B+1,K,4) of one weight's line, with `column` (M,) the weights where it starts."""
        self._score_at(column)
        moved, w = (-1, np.float32(1)) if member is None else (member, column[member])
        pixels = self.columns, moved, self.score, self.rivals, self.kinds, self.bounds, self.weighs
        self.line = pixels, (self.k, w, *span.ends_u, span.scale)
        self.hist = span.histogram(self.q.shape[1])
        weight_histogram(*self.line, self.sizes, self.hist)
        return self.hist

    def events(self, flagged: NDArray[np.bool_]) -> Events:
        """Of the flagged bins (B+1,) of the last histogram's line."""
        out = _room(self.hist, flagged)
        num = weight_events(flagged.view(np.uint8), *self.line, *out.columns)
        return out.first(num)

    def commit(self, column: Float) -> None:
        """Takes a column (M,) for the open class: one within reach."""
        assert self.state is not None
        self.weights[:, self.k] = column
        rescore(self.q, self.weights, self.k, *self.state)

    def line_histogram(self, base: Float, step: Float, span: WeightInterval) -> Counts:
        """(B+1,K,4) of the line of weights base + x * step, each (M,K), x in [0, span.high)."""
        self.hist = span.histogram(self.q.shape[1])
        self.through = base, step, np.float32(span.high), self.truth, self.ends, self.weighs, span.scale
        self.num = line_events(self.q, *self.through, np.ones(span.num_bins + 1, np.uint8), self.hist, *self.spare)
        return self.hist

    def line_events(self, flagged: NDArray[np.bool_]) -> Events:
        """Of the flagged bins (B+1,) of the last such line, which is walked again where not all of its events had
        room."""
        out = _room(self.hist, flagged)
        if self.num <= self.spare[0].size:
            return out.first(
                flagged_events(flagged.view(np.uint8), self.through[-1], self.spare, self.num, *out.columns)
            )
        again = np.zeros_like(self.hist)
        return out.first(line_events(self.q, *self.through, flagged.view(np.uint8), again, *out.columns))


def _mapped(shape: tuple[int, ...]) -> Float:
    """Memory that goes back to the system once it is free: malloc would hold on to a few dozen megabytes of it."""
    size = math.prod(shape)
    pages = mmap.mmap(-1, max(4 * size, 1), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return np.frombuffer(pages, np.float32, size).reshape(shape)


def _room(hist: Counts, flagged: NDArray[np.bool_]) -> Events:
    """For as many events as the flagged bins (B+1,) of a histogram can hold."""
    most = int(hist[flagged][:, :, :2].sum())
    old, new, truth = np.empty((3, most), np.uint8)
    return Events(np.empty(most, np.float32), old, new, truth, np.empty(most, np.int32))
