"""A part of the fitting sample: everything that the exact search does a pixel, where the pixels lie.

Enters: probabilities (M,K,P) float32, labels (P,) uint8 (255: ignored) and strata; then weights. Leaves: counts,
histograms and events, a few kilobytes each, which the search (`coordinate`) adds up over parts. So a part can live in
a process or on a machine of its own: `Pixels` is all that the search knows of it.

Memory beside the sample: fourteen bytes a pixel, and for one class at a time 4 M + 14 for each pixel that it can win
or lose.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from analysis.linesearch import Counts, Events, Span
from analysis.strata import Strata, firsts, of_pixels
from analysis.thresholds import count_events, line_events, scores_of, weight_events, weight_histogram, wins
from analysis.toptwo import arrange, contested, gather, rescore, top_two
from analysis.voting import Float, Labels, confusion_with_each, sample_confusion
from trainables.metrics import confusion


@dataclass(frozen=True)
class Reach:
    """How far a class's weights may move while it is open, each (M,): all of them within [low, high], and one member
    alone further down by `drop` and up by `extra`."""

    low: Float
    high: Float
    drop: Float
    extra: Float


class Pixels(Protocol):
    """What the search asks of a part. A line runs through the pixels of the open class: `member` m moves W[m,k]
    itself, None scales the whole column, whose weight is then 1."""

    @property
    def shape(self) -> tuple[int, int]: ...  # members, classes
    def num_labelled(self) -> int: ...
    def every(self, step: int, offset: int) -> tuple[Float, Labels, NDArray[np.int64]]: ...
    def thinned(self, step: int, offset: int) -> AbstractContextManager[Pixels]: ...
    def confusion(self, weights: Float) -> Counts: ...
    def confusion_with_each(self, weights: Float) -> Counts: ...
    def restart(self, weights: Float) -> Counts: ...
    def open(self, k: int, reach: Reach) -> Counts: ...
    def histogram(self, member: int | None, column: Float, span: Span) -> Counts: ...
    def events(self, flagged: NDArray[np.bool_]) -> Events: ...
    def won(self, column: Float) -> Counts: ...
    def commit(self, column: Float) -> None: ...
    def line_histogram(self, base: Float, step: Float, span: Span) -> Counts: ...
    def line_events(self, flagged: NDArray[np.bool_]) -> Events: ...


class Part:
    """Pixels in this process's memory."""

    def __init__(self, q: Float, truth: Labels, strata: Strata | None = None) -> None:
        assert q.flags.c_contiguous, "the kernels stream along pixels"
        self.q, self.truth, self.strata = q, truth, of_pixels(strata, truth.size)
        self.ends, self.weighs = self.strata.arrays
        num_pixels, num_kinds = truth.size, 3 * q.shape[1] * len(self.strata.ends)
        assert num_pixels < 2**31
        assert num_kinds < 2**16
        # made when they are needed; of the last six only as much is touched, and so held, as one class can win or lose
        self.state: tuple[Float, Float, Float, Labels, Labels] | None = None
        self.index, self.order = np.empty(num_pixels, np.int32), np.empty(num_pixels, np.int32)
        self.kinds, self.rivals = np.empty(num_pixels, np.uint16), np.empty(num_pixels, np.float32)
        self.memory = np.empty(q.shape[0] * num_pixels, np.float32)
        self.starts = np.zeros(num_kinds + 1, np.int64)

    @property
    def shape(self) -> tuple[int, int]:
        return self.q.shape[0], self.q.shape[1]

    def num_labelled(self) -> int:
        return int(np.count_nonzero(self.truth != 255))

    def labelled(self) -> list[int]:
        """How many pixels of each stratum are."""
        return [int(picked.size) for picked in self._by_stratum()]

    def _by_stratum(self) -> list[NDArray[np.int64]]:
        picked = np.flatnonzero(self.truth != 255)
        return np.split(picked, self.strata.of(picked).ends[:-1])

    def some(self, step: int, begins: Sequence[int]) -> tuple[Float, Labels, Strata]:
        """Every `step`-th labelled pixel of each stratum, from its own begin on."""
        picked = np.concatenate([one[b::step] for one, b in zip(self._by_stratum(), begins, strict=True)])
        return np.take(self.q, picked, axis=2), self.truth[picked], self.strata.of(picked)

    def thin(self, step: int, begins: Sequence[int]) -> Part:
        """`some`, as a part of its own."""
        return Part(*self.some(step, begins))

    def thinned(self, step: int, offset: int) -> AbstractContextManager[Part]:
        """What `every` says, as pixels that stay where they are, until the context ends."""
        return nullcontext(self.thin(step, firsts(np.array([self.labelled()]), step, offset)[0]))

    def every(self, step: int, offset: int) -> tuple[Float, Labels, NDArray[np.int64]]:
        """Every `step`-th labelled pixel from the `offset`-th on: probabilities, labels, how often each counts."""
        picked = np.flatnonzero(self.truth != 255)[offset::step]
        return np.take(self.q, picked, axis=2), self.truth[picked], self.strata.per_pixel()[picked]

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

    def open(self, k: int, reach: Reach) -> Counts:
        """Gathers the pixels that class k can win or lose within reach. -> what it has of them, as `won` says."""
        assert self.state is not None
        self.k = k
        won = np.empty(self.starts.size - 1, np.int64)
        unsorted = self.memory[: self.truth.size]  # free until the columns are gathered
        num = contested(
            self.q, self.truth, self.ends, self.state, self.weights, k, reach.low, reach.high, reach.drop, reach.extra,
            self.index, self.kinds, unsorted, self.starts, won,
        )  # fmt: skip
        index, self.rival, order = self.index[:num], self.rivals[:num], self.order[:num]
        arrange(index, self.kinds, unsorted, self.starts, order, self.rival)
        num_members = self.q.shape[0]
        self.columns = self.memory[: num_members * num].reshape(num_members, 1, num)
        gather(self.q, k, order, self.columns)
        self.score = index.view(np.float32)  # the index is not needed any more
        self.column = np.full(self.q.shape[0], np.nan, np.float32)
        return self._per_kind(won)

    def _score_at(self, column: Float) -> None:
        if not np.array_equal(column, self.column):
            scores_of(self.columns, column[:, None], 0, self.score)
            self.column = column.copy()

    def _per_kind(self, won: Counts) -> Counts:
        weighted: Counts = (won.reshape(self.weighs.size, -1) * self.weighs[:, None]).sum(0).reshape(-1, 3)
        return weighted

    def won(self, column: Float) -> Counts:
        """(K,3): the pixels that class k has under a column (M,) by their best other class and by whether that is the
        truth, k is, or neither."""
        self._score_at(column)
        out = np.empty(self.starts.size - 1, np.int64)
        wins(self.score, self.rival, self.starts, self.k, self.q.shape[1], out)
        return self._per_kind(out)

    def histogram(self, member: int | None, column: Float, span: Span) -> Counts:
        """(B+1,K,4) of one weight's line, with `column` (M,) the weights where it starts."""
        self._score_at(column)
        values, w = (self.score, np.float32(1)) if member is None else (self.columns[member, 0], column[member])
        self.line = values, self.score, self.rival, self.starts, self.weighs, self.k, w, *span.ends_u, span.scale
        self.hist = span.histogram(self.q.shape[1])
        weight_histogram(*self.line, self.hist)
        return self.hist

    def events(self, flagged: NDArray[np.bool_]) -> Events:
        """Of the flagged bins (B+1,) of the last histogram's line."""
        most = int(self.hist[flagged][:, :, :2].sum())
        old, new, truth = np.empty((3, most), np.uint8)
        out = Events(np.empty(most, np.float32), old, new, truth, np.empty(most, np.int32))
        num = weight_events(flagged.view(np.uint8), *self.line, *out.columns)
        return out.where(np.arange(num))

    def commit(self, column: Float) -> None:
        """Takes a column (M,) for the open class: one within reach."""
        assert self.state is not None
        self.weights[:, self.k] = column
        rescore(self.q, self.weights, self.k, *self.state)

    def line_histogram(self, base: Float, step: Float, span: Span) -> Counts:
        """(B+1,K,4) of the line of weights base + x * step, each (M,K), x in [0, span.high)."""
        hist = span.histogram(self.q.shape[1])
        u, moves, weight = line_events(
            self.q, base, step, np.float32(span.high), self.truth, self.ends, self.weighs, hist[0]
        )
        self.crossings = Events(u, moves[0], moves[1], moves[2], weight)
        self.rows = np.empty(u.size, np.uint16)
        count_events(*self.crossings.columns, span.scale, hist, self.rows)
        return hist

    def line_events(self, flagged: NDArray[np.bool_]) -> Events:
        """Of the flagged bins (B+1,) of the last such line."""
        return self.crossings.where(flagged[self.rows])
