from __future__ import annotations

from dataclasses import replace

import pytest
from factories import make_ensemble, make_gain, make_member

from analysis.ensembling.result import Gain
from analysis.report.comparison import Comparison, Paired, Side, differing, headline
from analysis.report.origin import Origin


@pytest.fixture
def compared() -> Comparison:
    ensemble = make_ensemble(["a", "b"], [make_member("0000"), make_member("0001")])
    values = {"started": "2026-01-01T00:00:00", "space": "s", "ensemble": ensemble, "origin": Origin(), "families": ()}
    values |= {"num_trials": 2, "epochs": 4, "best_val": 0.5, "progress": (), "settings": {}, "recipe": {}}
    return Comparison(Side(name="one", **values), Side(name="two", **values), Paired(), Paired())


@pytest.mark.parametrize(
    ("gain", "said"),
    [
        (
            make_gain(0.03, 0.01, 0.05),
            "two is better than one: +0.030 mIoU [+0.010, +0.050] on the same 9 hold-out",
        ),
        (make_gain(-0.03, -0.05, -0.01), "one is better than two, which has -0.030 mIoU [-0.050, -0.010] on the same"),
        (make_gain(0.01, -0.01, 0.03), "one and two cannot be told apart: two has +0.010 mIoU [-0.010, +0.030]"),
    ],
)
def test_the_headline_says_no_more_than_the_interval(compared: Comparison, gain: Gain, said: str) -> None:
    assert headline(replace(compared, holdout=Paired(gain, {}, 9))).startswith(said)


def test_different_holdouts_give_no_difference(compared: Comparison) -> None:
    found = headline(replace(compared, holdout=Paired(why_not="their data differ")))
    assert found == "one has 0.500 mIoU on its hold-out, two 0.500: their data differ"


def test_only_what_differs_is_listed() -> None:
    assert differing({"x": "1", "y": "2"}, {"y": "3", "x": "1", "z": "4"}) == [("y", "2", "3"), ("z", "–", "4")]
