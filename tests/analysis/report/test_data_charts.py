"""The figures of the data pages: what is drawn is what was given, and no name becomes markup."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from analysis.report import data_charts as charts
from analysis.report.charts import MAX_LABELLED_CLASSES, MAX_NAMED_CLASSES

EVIL = "</script><b>"
FIGURES = {
    "bars": lambda: charts.bars([EVIL, "b"], {EVIL: [1, 2]}, "count"),
    "heat": lambda: charts.heat(np.eye(2), [EVIL, "b"], ["a", EVIL], hover="%{z}", labels=".0%"),
    "intervals": lambda: charts.intervals([EVIL], [(0.6, 0.5, 0.7)], "AUC"),
    "histogram": lambda: charts.histogram({EVIL: [1.0]}, [0, 2], "px"),
}


@pytest.mark.parametrize("name", FIGURES)
def test_names_are_escaped_in_text_that_ends_no_script(name: str) -> None:
    text = FIGURES[name]()
    assert "<" not in text
    drawn = json.dumps(json.loads(text))
    assert EVIL not in drawn
    assert "&lt;/script&gt;" in drawn


def test_bars_keep_every_value_in_the_order_of_the_names() -> None:
    series = {"train": [3, None, 1000], "val": [0, 2, 5]}
    figure = json.loads(charts.bars(["a", "b", "c"], series, "count", log=True))
    assert {trace["name"]: trace["x"] for trace in figure["data"]} == series
    assert figure["layout"]["yaxis"]["ticktext"] == ["a", "b", "c"]
    assert figure["layout"]["yaxis"]["range"] == [2.5, -0.5]  # the first name on top
    assert figure["layout"]["xaxis"]["range"] == [0, pytest.approx(3.1)]  # of log10: from 1 to a little over 1000
    assert figure["layout"]["showlegend"]


def test_shares_on_a_log_axis_begin_below_the_rarest_class() -> None:
    figure = json.loads(charts.bars(["a", "b", "c"], {"share": [0.97, 0.0004, 0.0]}, "share", log=True, percent=True))
    assert figure["layout"]["xaxis"]["type"] == "log"
    low, high = figure["layout"]["xaxis"]["range"]
    assert low == -4  # 0.01%
    assert 0 < high < 0.2


def test_more_names_than_fit_beside_an_axis_appear_under_the_pointer() -> None:
    names = [f"class {k}" for k in range(MAX_NAMED_CLASSES + 1)]
    bars = json.loads(charts.bars(names, {"share": [0.1] * len(names)}, "share", percent=True))
    heat = json.loads(charts.heat(np.ones((41, 41)), names, names, hover="%{z}", labels=".0%"))
    assert bars["layout"]["yaxis"]["tickvals"] == []
    assert bars["data"][0]["customdata"] == names
    assert not heat["layout"]["xaxis"]["showticklabels"]
    assert heat["data"][0]["customdata"][3][40] == ["class 3", "class 40"]


@pytest.mark.parametrize("size", [MAX_LABELLED_CLASSES, MAX_LABELLED_CLASSES + 1])
def test_cells_have_numbers_where_they_can_be_read(size: int) -> None:
    z = np.random.default_rng(0).random((size, size))
    z[0, 1] = 0
    trace: dict[str, Any] = json.loads(charts.heat(z, ["n"] * size, ["n"] * size, hover="%{z}", labels=".0%"))["data"][
        0
    ]
    np.testing.assert_allclose(trace["z"], z, atol=1e-5)
    if size > MAX_LABELLED_CLASSES:
        assert trace.get("text") is None
    else:
        assert trace["text"][0][1] == ""
        assert trace["text"][2][3] == f"{z[2, 3]:.0%}"


def test_intervals_reach_from_low_to_high() -> None:
    values = [(0.9, 0.8, 0.95), (0.5, 0.1, 0.6)]
    figure = json.loads(charts.intervals(["a", "b"], values, "AUC"))
    [marks] = figure["data"]
    ends = marks["x"], marks["error_x"]["arrayminus"], marks["error_x"]["array"]
    found = [(x, x - minus, x + plus) for x, minus, plus in zip(*ends, strict=True)]
    np.testing.assert_allclose(found, values)
    assert figure["layout"]["xaxis"]["range"][0] <= 0.1
    assert figure["layout"]["shapes"][0]["x0"] == 0.5


def test_a_histogram_has_the_shares_of_numpys_density() -> None:
    edges = [0.0, 1.0, 2.0, 3.0]  # equally wide: a density is then a share
    values = np.random.default_rng(0).uniform(0, 3, 50)
    figure = json.loads(charts.histogram({"a": values.tolist(), "none": []}, edges, "px"))
    first, empty = figure["data"]
    np.testing.assert_allclose(first["y"][:-1], np.histogram(values, edges, density=True)[0])
    assert first["y"][-1] == first["y"][-2]  # a step reaches to the last edge
    assert sum(first["customdata"][:-1]) == 50
    assert empty["y"] == [0, 0, 0, 0]
