"""Which views each rule reads: the plain view of one member, its own best views, or members and views chosen together.

Choosing views is part of a fit. The search gives paths from cheap to expensive (`view_search`), found again without
each fold; how far to go along them is decided by images that a step was not found on: a more expensive step is taken
where its cross-fitted gain holds, (`verdict.climb`). No view has to reach a
threshold that somebody set.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analysis.ensembling.crossfit import CrossfitFolds, Images
from analysis.ensembling.path_scores import Tally, tally
from analysis.ensembling.pixel_sampling import FittingSample
from analysis.ensembling.verdict import climb
from analysis.ensembling.view_search import Pairs, Step, WeighedPixels, search_path
from analysis.voting.view_config import ViewConfig, Views, plain_view


@dataclass(frozen=True)
class ViewSelection:
    """What the rules of one fit look at."""

    plain: ViewConfig  # one member, its plain view
    own: ViewConfig  # one member, its own best views
    joint: tuple[ViewConfig, ...]  # members and views chosen together, of several where they fit the budget: lean, full
    own_views: Views  # each member's own best views


@dataclass(frozen=True)
class ScoredEnsemble:
    """An ensemble that the search passed through, found on all of val. Both scores are of the fitting sample."""

    views: Views
    cost: float
    miou_fitted: float
    miou_crossfit: float


@dataclass(frozen=True)
class SelectedViews:
    whole: ViewSelection
    without: tuple[ViewSelection, ...]  # each fold
    visited: tuple[ScoredEnsemble, ...]  # members alone, then together; each from cheap to expensive


class _Steps:
    """Paths of every fit in step with each other: column s is one step, found on all of val and without each fold."""

    def __init__(self, sample: FittingSample, folds: CrossfitFolds, paths: Sequence[Sequence[Sequence[Step]]]) -> None:
        """`paths[f][p]` is path p of fit f; fit 0 is of all of val, fit f > 0 leaves out fold f - 1."""
        lengths = [len(path) for path in paths[0]]
        self.columns = [range(sum(lengths[:p]), sum(lengths[: p + 1])) for p in range(len(lengths))]
        self.steps = [
            [path[min(s, len(path) - 1)] for path, length in zip(fit, lengths, strict=True) for s in range(length)]
            for fit in paths
        ]
        scored = [np.ones(folds.of_image.size, bool), *(folds.of_image == fold for fold in range(folds.num))]
        tallies = [
            tally(sample, np.stack([step.shares for step in steps]), images)
            for images, steps in zip(scored, self.steps, strict=True)
        ]
        self.fitted, self.crossfitted = tallies[0].miou(), Tally.sum(tallies[1:])

    def choose(self, columns: Sequence[int], kept: NDArray[np.bool_], images: Images) -> int:
        """The column taken on the images `kept` (N,): from cheap to expensive, where the cross-fitted gain holds."""
        draws = images.draws(kept)
        order = sorted(columns, key=lambda c: (self.steps[0][c].cost, c))
        return int(climb({str(c): self.crossfitted.resampled(c, kept, draws) for c in order}))


def select_views(
    sample: FittingSample,
    folds: CrossfitFolds,
    images: Images,
    costs: Sequence[Sequence[float]],  # of each member's views, in the order of sample.names
    budget: float | None,
) -> SelectedViews:
    """What the rules look at in each fit. Members come best first; the first whose plain view the budget allows is the
    best single.

    Raises ValueError where it allows none.
    """
    search = _Search(sample, folds, _pairs(sample.names, costs), budget)
    plain = [search.pairs.of(m)[list(names).index(plain_view(names))] for m, names in enumerate(sample.names)]
    allowed = [m for m, row in enumerate(plain) if budget is None or search.pairs.costs[row] <= budget]
    if not allowed:
        least = min(search.pairs.costs[row] for row in plain)
        raise ValueError(
            f"latency_budget_ms must allow the plain view of one candidate, got {budget:g} ms per image, and the "
            f"cheapest takes {least:.3g} ms; allow as much, or search smaller models"
        )
    alone = search.alone([plain[m] for m in allowed])
    own = [[alone.choose(columns, kept, images) for columns in alone.columns] for kept in search.kept]
    together = search.together([
        sorted(row for c in columns for row in alone.steps[f][c].pairs) for f, columns in enumerate(own)
    ])  # fmt: skip
    columns = range(len(together.steps[0]))
    # a step of one member is no ensemble: a vote of it would be that member through whatever view began the path
    several = [c for c in columns if all(len(search.members(fit[c])) > 1 for fit in together.steps)]
    selection = []
    for f, kept in enumerate(search.kept):
        scores = alone.crossfitted.miou(kept)
        best = 0 if f == 0 else int(np.argmax([scores[columns[0]] for columns in alone.columns]))
        joint = together.choose(several or columns, kept, images)
        own_rows = [alone.steps[f][c].pairs for c in own[f]]
        selection.append(ViewSelection(
            search.view_config([plain[allowed[best]]]),
            search.view_config(own_rows[int(np.argmax(scores[own[f]]))]),
            (search.view_config(together.steps[f][joint].pairs), search.view_config(together.steps[f][-1].pairs)),
            search.view_config([row for rows in own_rows for row in rows]).views,
        ))  # fmt: skip
    return SelectedViews(selection[0], tuple(selection[1:]), (*search.visited(alone), *search.visited(together)))


class _Search:
    """Paths of every fit, searched on the coarse pixels: fit 0 is of all of val, fit f > 0 leaves out fold f - 1."""

    def __init__(self, sample: FittingSample, folds: CrossfitFolds, pairs: Pairs, budget: float | None) -> None:
        self.sample, self.folds, self.pairs, self.budget = sample, folds, pairs, budget
        q, times = np.concatenate(sample.coarse.by_view), sample.coarse.times  # (R,K,C)
        held_out, truth = folds.of_image[sample.coarse.image], sample.coarse.truth
        without = (np.where(held_out == fold, np.uint8(255), truth) for fold in range(folds.num))
        self.pixels = [WeighedPixels(q, labels, times) for labels in (truth, *without)]
        self.kept = [np.ones(len(folds.of_image), bool), *(folds.of_image != fold for fold in range(folds.num))]

    def alone(self, plain: Sequence[int]) -> _Steps:
        """A path for each member on its own, from its plain view."""
        return _Steps(self.sample, self.folds, [
            [self._path(pixels, start=[row], among=self.pairs.of(self.pairs.members[row])) for row in plain]
            for pixels in self.pixels
        ])  # fmt: skip

    def together(self, everybody: Sequence[Sequence[int]]) -> _Steps:
        """The paths by gain, by gain for its cost, and, last, from each fit's `everybody`, where that is within the
        budget: every member through its own best views, which a search from nothing may miss."""
        orders = [True, False] if len(set(self.pairs.costs)) > 1 else [False]
        paths = [[self._path(pixels, per_cost=by_cost) for by_cost in orders] for pixels in self.pixels]
        if self.budget is None or all(sum(self.pairs.costs[r] for r in rows) <= self.budget for rows in everybody):
            for found, pixels, rows in zip(paths, self.pixels, everybody, strict=True):
                found.append(self._path(pixels, start=rows)[:1])
        return _Steps(self.sample, self.folds, paths)

    def _path(self, pixels: WeighedPixels, **options: Any) -> list[Step]:
        return search_path(pixels, self.pairs, budget=self.budget, **options)

    def members(self, step: Step) -> set[int]:
        return {self.pairs.members[r] for r in step.pairs}

    def view_config(self, rows: Sequence[int]) -> ViewConfig:
        members, views = self.pairs.members, self.pairs.views
        return ViewConfig.plain(
            tuple(tuple(views[r] for r in rows if members[r] == m) for m in range(max(members) + 1))
        )

    def visited(self, steps: _Steps) -> list[ScoredEnsemble]:
        """What the paths of fit 0 passed through, from cheap to expensive."""
        scores = zip(steps.steps[0], steps.fitted, steps.crossfitted.miou(), strict=True)
        found = [
            ScoredEnsemble(self.view_config(s.pairs).views, s.cost, float(fit), float(cross))
            for s, fit, cross in scores
        ]
        return sorted(found, key=lambda one: one.cost)


def _pairs(names: Views, costs: Sequence[Sequence[float]]) -> Pairs:
    every = [(m, view, cost) for m, views in enumerate(names) for view, cost in zip(views, costs[m], strict=True)]
    members, views, prices = zip(*every, strict=True)
    return Pairs(members, views, prices)
