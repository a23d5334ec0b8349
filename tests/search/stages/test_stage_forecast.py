"""What later stages are expected to take, against the same counted by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
from factories import make_row

from search.cluster.nodes import Node
from search.space.options import Options
from search.stages.stage_forecast import Sizes, StageForecast

SIZES = Sizes(train=50, val=10, holdout=20, pixels=1000.0, classes=3)
ROWS = [make_row(number, "COMPLETE", best_miou=0.1 * number, best_epoch=number + 1) for number in range(2)]


def told(**options: Any) -> StageForecast:
    """Two trials, 10 s an epoch: 5 s for 50 images at 10 per second, so 5 s for the 10 that are tuned on."""
    found = StageForecast(Options.model_validate(options), SIZES, [Node(cpus=4.0)])
    for row in ROWS:
        found.epoch(row, {"time_this_iter_s": 10.0, "images_per_s": 10.0})
    return found


def test_candidates_are_predicted_side_by_side_in_every_view() -> None:
    found = told(tta={"scales": [1.0, 2.0]}).seconds(ROWS)
    assert found["logits"] == pytest.approx(0.5 * 30 * (1 + 4))  # two candidates, room for four
    assert found["report"] == pytest.approx(0.5 * 20 * 2)  # the hold-out, each image once, by both
    assert "noise" not in found
    assert "folds" not in found


def test_folds_take_the_epochs_of_the_best_trials_on_their_share_of_the_images() -> None:
    """Recipes of 2 and 1 epochs; 60 images, three folds of 40 and a refit of 60: eight models on four CPUs."""
    found = told(folds={"num": 3, "recipes": 2}).seconds(ROWS)
    assert found["folds"] == pytest.approx((2 + 1) * 10.0 * (3 * 40 + 60) / 50 / 4, rel=0.01)
    assert "soups" not in found


def test_repeats_are_of_the_best_trial() -> None:
    assert told(search={"noise_repeats": 3}).seconds(ROWS)["noise"] == pytest.approx(2 * 10.0 * 3 / 3)


def test_without_an_epoch_or_with_a_diverged_one_nothing_is_promised() -> None:
    forecast = StageForecast(Options(), SIZES, [Node(cpus=4.0)])
    forecast.epoch(ROWS[0], {"time_this_iter_s": 10.0, "images_per_s": math.nan})
    assert forecast.seconds(ROWS) == {}
