"""Optuna's plots in the page's colours: its data are kept, the best trials lie on top, names are no markup."""

from __future__ import annotations

import json

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.visualization import plot_parallel_coordinate, plot_slice

from analysis.report.charts import GREY
from analysis.report.search_charts import parallel_figure, slice_figure


@pytest.fixture(scope="module")
def study() -> optuna.Study:
    found = optuna.create_study(direction="maximize")
    dists = {"lr": FloatDistribution(1e-4, 1e-1, log=True), "<i>": CategoricalDistribution(["<b>a</b>", "b"])}
    for n in range(8):
        params = {"lr": 10 ** (-4 + n / 4), "<i>": ["<b>a</b>", "b"][n % 2]}
        found.add_trial(optuna.trial.create_trial(value=n / 10, params=params, distributions=dists))
    return found


def test_the_best_quarter_is_coloured_and_lies_on_top(study: optuna.Study) -> None:
    figure = json.loads(parallel_figure(plot_parallel_coordinate(study, ["lr", "<i>"])))
    lines = figure["data"]
    assert [line["y"][0] for line in lines] == sorted(line["y"][0] for line in lines)
    assert [line["line"]["color"] == GREY for line in lines] == [True] * 6 + [False] * 2
    assert lines[-1]["customdata"][0][1] == "0.7"


def test_a_slice_has_a_point_per_trial_on_the_parameters_own_axis(study: optuna.Study) -> None:
    number = json.loads(slice_figure(plot_slice(study, ["lr"]), "lr"))
    assert number["layout"]["xaxis"]["type"] == "log"
    assert [trace["y"] for trace in number["data"]] == [[n / 10 for n in range(8)]]
    assert json.loads(slice_figure(plot_slice(study, ["<i>"]), "<i>"))["layout"]["xaxis"]["type"] == "category"


def test_names_in_the_plots_are_no_markup(study: optuna.Study) -> None:
    for text in (parallel_figure(plot_parallel_coordinate(study)), slice_figure(plot_slice(study, ["<i>"]), "<i>")):
        assert "<" not in text
        figure = json.loads(text)
        assert "<b>a" not in json.dumps([figure["layout"], *(trace["hovertemplate"] for trace in figure["data"])])
