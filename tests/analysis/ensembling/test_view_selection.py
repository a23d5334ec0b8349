"""Views for each rule, on members whose good views are known."""

from __future__ import annotations

import numpy as np
import pytest
from factories import make_sample

from analysis.ensembling.crossfit import CrossfitFolds, Images
from analysis.ensembling.view_selection import SelectedViews, select_views
from analysis.voting.view_config import ViewConfig
from analysis.weight_search.sample_confusion import sample_confusion
from trainables.metrics import miou

STRENGTHS = ((2.5, 2.5), (2.0, 0.0), (0.1, 0.1))  # the second's other view is noise, and so is the third member
SAMPLE = make_sample(STRENGTHS, num_images=12, per_image=200)
FOLDS, IMAGES = CrossfitFolds(np.arange(12) % 3, 3, None), Images([str(i) for i in range(12)], False, 0, 60)
COSTS = ((1.0, 1.0), (1.0, 1.0), (0.5, 0.5))


def chosen(budget: float | None = None) -> SelectedViews:
    return select_views(SAMPLE, FOLDS, IMAGES, COSTS, budget)


@pytest.fixture(scope="module")
def selected() -> SelectedViews:
    return chosen()


def cost_of(config: ViewConfig) -> float:
    names = SAMPLE.names
    return sum(COSTS[m][names[m].index(view)] for m, views in enumerate(config.views) for view in views)


def every_config(selected: SelectedViews) -> list[ViewConfig]:
    fits = (selected.whole, *selected.without)
    return [config for fit in fits for config in (fit.plain, fit.own, *fit.joint)]


def test_each_rule_reads_what_it_may(selected: SelectedViews) -> None:
    for fit in (selected.whole, *selected.without):
        assert fit.plain.views == (("s1.00-none",), (), ())
        assert len(fit.own.members) == 1
        assert [len(views) >= 1 for views in fit.own_views] == [True] * 3


def test_good_views_are_taken_and_noise_is_left_out(selected: SelectedViews) -> None:
    assert set(selected.whole.own.views[0]) == {"s1.00-none", "s1.00-horizontal"}
    lean, full = selected.whole.joint
    assert lean.views[:2] == (("s1.00-none", "s1.00-horizontal"), ("s1.00-none",))
    assert cost_of(lean) <= cost_of(full)


def test_scores_of_single_views_are_those_of_a_count(selected: SelectedViews) -> None:
    singles = [one for one in selected.visited if sum(map(len, one.views)) == 1]
    assert len(singles) >= 3
    for one in singles:
        [m] = [m for m, views in enumerate(one.views) if views]
        q = SAMPLE.by_view[m][[SAMPLE.names[m].index(one.views[m][0])]]
        counts = sample_confusion(np.ascontiguousarray(q), np.ones((1, 3), np.float32), SAMPLE.truth, SAMPLE.strata)
        assert one.miou_fitted == pytest.approx(float(miou(counts)), abs=1e-9)
        assert one.miou_crossfit <= one.miou_fitted + 0.05


def test_what_was_visited_comes_from_cheap_to_expensive(selected: SelectedViews) -> None:
    costs = [one.cost for one in selected.visited]
    assert costs == [cost_of(ViewConfig.plain(one.views)) for one in selected.visited]
    alone = sum(len([views for views in one.views if views]) == 1 for one in selected.visited)
    starts = [n for n in range(1, len(costs)) if costs[n] < costs[n - 1]]
    assert len(starts) == 1  # where members alone end and members together begin
    assert starts[0] <= alone


@pytest.mark.parametrize(("budget", "several"), [(None, True), (1.0, False)])
def test_an_ensemble_is_of_several_members_where_the_budget_has_room(budget: float | None, several: bool) -> None:
    """The second member only disturbs the first: the search would stop at one."""
    sample = make_sample(((3.0, 3.0), (0.0, 0.0)), num_images=12, per_image=200)
    selected = select_views(sample, FOLDS, IMAGES, COSTS[:2], budget)
    for fit in (selected.whole, *selected.without):
        assert [len(config.members) > 1 for config in fit.joint] == [several, several]


@pytest.mark.parametrize("budget", [0.5, 1.0, 2.0, 3.0])
def test_no_rule_of_any_fit_goes_beyond_the_budget(budget: float) -> None:
    assert max(cost_of(config) for config in every_config(chosen(budget))) <= budget


def test_a_budget_below_the_cheapest_plain_view_is_refused_with_its_cost() -> None:
    with pytest.raises(ValueError, match=r"got 0.2 ms per image, and the cheapest takes 0.5 ms"):
        chosen(0.2)


def test_the_same_sample_gives_the_same_views(selected: SelectedViews) -> None:
    assert chosen() == selected
