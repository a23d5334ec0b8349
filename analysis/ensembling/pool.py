"""The fitting sample as one, wherever its pixels are: in this process, or in shares that actors hold (`Spread.hold`).

Enters: what makes a share of image ids, and all ids. Leaves: counts a look, image and fit, each summed over the shares
or put beside each other; and `Pool.coarse`, fewer than 2 * COARSE_PIXELS pixels of every view, on which views are
searched and temperatures fitted. These, and the pixels that `coordinate` starts from (fewer than twice its own
COARSE_PIXELS, through one look), are all that ever leave the place where they were drawn. Which they are depends on
their position in the whole sample alone: any division gives the same ensemble, to the last bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analysis.ensembling.path_scores import Tally, tally
from analysis.ensembling.pixel_sampling import FittingSample, Gathering
from analysis.voting.executor import Places, Spread
from analysis.voting.view_config import Look, Views
from analysis.voting.votes import Float, Labels
from analysis.weight_search.line_search import Counts, Events, Span
from analysis.weight_search.pixels import Part, Reach
from analysis.weight_search.strata import Strata, firsts, in_a_row, join

COARSE_PIXELS = 32768


class Share:
    """The sample of some images, and room for what is seen of it through a look."""

    def __init__(self, sample: FittingSample, num_images: int) -> None:
        self.sample, self.num_images = sample, num_images
        self.room: Float | None = None  # (M,K,P), kept from look to look: fresh memory costs time

    def size(self) -> tuple[int, tuple[int, ...]]:
        """Images, and pixels by stratum."""
        return self.num_images, tuple(np.diff((0, *self.sample.strata.ends)).tolist())

    def some(self, step: int, begins: Sequence[int]) -> FittingSample:
        return self.sample.some(step, begins)

    def tally(self, shares: Float, kept: NDArray[np.bool_]) -> Tally:
        return tally(self.sample, shares, kept)

    def see(self, look: Look, kept: NDArray[np.bool_]) -> Part:
        """The members that are looked at; pixels of images that are not kept have no label."""
        if self.room is None:
            self.room = np.empty((len(self.sample.names), *self.sample.by_view[0].shape[1:]), np.float32)
        truth = np.where(kept[self.sample.image], self.sample.truth, np.uint8(255))
        return Part(self.sample.probabilities(look, self.room), truth, self.sample.strata)


@dataclass(frozen=True)
class Sharing:
    """Makes a `Share`."""

    gathering: Gathering

    def __call__(self, ids: Sequence[str], spread: Spread) -> Share:
        return Share(self.gathering(ids, spread), len(ids))


class Pool:
    """All shares. Ends with its context."""

    def __init__(self, gathering: Gathering, ids: Sequence[str], spread: Spread) -> None:
        self.names: Views = gathering.drawing.names
        self.num_classes = len(gathering.drawing.stores[0].header.classes)
        self.places = spread.hold(Sharing(gathering), ids)
        images, pixels = zip(*self.places.each("call", [(0, "size")] * self.places.num), strict=True)
        self.ends: list[int] = np.cumsum(images).tolist()  # of each share's images
        self.sizes: Counts = np.array(pixels, np.int64)  # (shares,S)

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, kind: type[BaseException] | None, _e: BaseException | None, _t: TracebackType | None) -> None:
        self.places.close()

    @cached_property
    def coarse(self) -> FittingSample:
        """Every n-th pixel."""
        step = max(1, int(self.sizes.sum()) // COARSE_PIXELS)
        begins = firsts(self.sizes, step)
        found: list[FittingSample] = self.places.each("call", [(0, "some", step, begin) for begin in begins])
        if len(found) == 1:
            return found[0]
        strata = [few.strata for few in found]
        of_members = zip(*(few.by_view for few in found), strict=True)
        images = [few.image + np.int32(end) for few, end in zip(found, (0, *self.ends), strict=False)]
        return FittingSample(
            self.names,
            tuple(join(by_view, strata) for by_view in of_members),
            join([few.truth for few in found], strata),
            join(images, strata),
            in_a_row(strata),
        )

    def tally(self, shares: Float, kept: NDArray[np.bool_]) -> Tally:
        """The counts of linear ensembles with `shares` (S,R) of all views, on the images that are `kept` (N,)."""
        given = [(0, "tally", shares, own) for own in self._by_share(kept)]
        return Tally.beside(self.places.each("call", given))

    def see(self, look: Look, kept: NDArray[np.bool_]) -> JoinedPixels:
        """What is seen through a look; the pixels of images that are not `kept` (N,) have no label. It has to end
        before the next begins."""
        self.places.each("push", [(0, "see", look, own) for own in self._by_share(kept)])
        return JoinedPixels(self.places, 1, (len(look.members), self.num_classes))

    def _by_share(self, kept: NDArray[np.bool_]) -> list[NDArray[np.bool_]]:
        return np.split(kept, self.ends[:-1])


class JoinedPixels:
    """The `Part` that each share holds at a depth, taken as one: counts and histograms are summed and events joined
    here, a few kilobytes a call. They are gone where the context ends."""

    def __init__(self, places: Places, depth: int, shape: tuple[int, int]) -> None:
        self.places, self.depth, self.shape = places, depth, shape
        self.labelled: Counts = np.array(self._of_each("labelled"), np.int64)  # (shares,S)

    def __enter__(self) -> JoinedPixels:
        return self

    def __exit__(self, kind: type[BaseException] | None, _e: BaseException | None, _t: TracebackType | None) -> None:
        self.places.each("pop", [()] * self.places.num)

    def num_labelled(self) -> int:
        return int(self.labelled.sum())

    def every(self, step: int) -> tuple[Float, Labels, Strata]:
        begins = firsts(self.labelled, step)
        given = [(self.depth, "some", step, begin) for begin in begins]
        found: list[tuple[Float, Labels, Strata]] = self.places.each("call", given)
        qs, truths, strata = zip(*found, strict=True)
        return join(qs, strata), join(truths, strata), in_a_row(strata)

    def thinned(self, step: int) -> JoinedPixels:
        begins = firsts(self.labelled, step)
        self.places.each("push", [(self.depth, "thin", step, begin) for begin in begins])
        return JoinedPixels(self.places, self.depth + 1, self.shape)

    def confusion(self, weights: Float) -> Counts:
        return self._sum("confusion", weights)

    def confusion_with_each(self, weights: Float) -> Counts:
        return self._sum("confusion_with_each", weights)

    def restart(self, weights: Float) -> Counts:
        return self._sum("restart", weights)

    def open(self, k: int, reach: Reach) -> Counts:
        return self._sum("open", k, reach)

    def histogram(self, member: int | None, column: Float, span: Span) -> Counts:
        return self._sum("histogram", member, column, span)

    def events(self, flagged: NDArray[np.bool_]) -> Events:
        return Events.merged(self._of_each("events", flagged))

    def won(self, column: Float) -> Counts:
        return self._sum("won", column)

    def commit(self, column: Float) -> None:
        self._of_each("commit", column)

    def line_histogram(self, base: Float, step: Float, span: Span) -> Counts:
        return self._sum("line_histogram", base, step, span)

    def line_events(self, flagged: NDArray[np.bool_]) -> Events:
        return Events.merged(self._of_each("line_events", flagged))

    def _of_each(self, name: str, *arguments: Any) -> list[Any]:
        return self.places.each("call", [(self.depth, name, *arguments)] * self.places.num)

    def _sum(self, name: str, *arguments: Any) -> Counts:
        counts: list[Counts] = self._of_each(name, *arguments)
        total: Counts = np.sum(counts, axis=0, dtype=np.int64) if len(counts) > 1 else counts[0]
        return total
