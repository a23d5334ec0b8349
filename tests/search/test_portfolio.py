"""The portfolio: greedy against brute force, and from runs to points that a space takes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from search.cli import app
from search.engine.portfolio import greedy, normalised
from search.space.space import load_space
from trainables.recipe.recipe import Recipe


@pytest.mark.parametrize("seed", range(20))
def test_greedy_reaches_its_share_of_the_best_set(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.uniform(size=(9, 5)) * (rng.uniform(size=(9, 5)) < 0.5)
    chosen = greedy(scores, 3)
    best = max(scores[list(rows)].max(axis=0).mean() for rows in itertools.combinations(range(9), 3))
    rows = [row for row, _ in chosen]
    assert chosen[0][1] == scores.mean(axis=1).max()
    assert chosen[-1][1] == pytest.approx(scores[rows].max(axis=0).mean())
    assert (1 - 1 / math.e) * best <= chosen[-1][1] <= best + 1e-12


def test_no_recipe_is_taken_that_adds_nothing() -> None:
    scores = np.array([[1.0, 0.5], [0.5, 1.0], [0.9, 0.9], [0.0, 0.2]])
    assert [row for row, _ in greedy(scores, 4)] == [2, 0, 1]


def test_scores_are_scaled_on_each_data_set_and_a_recipe_that_is_not_known_counts_as_the_worst() -> None:
    recipes, scores = normalised(
        {"easy": {"a": 0.9, "b": 0.8, "c": 0.85}, "hard": {"b": 0.1, "d": 0.3}, "one": {"a": 0.2}}
    )
    assert recipes == ["a", "d", "c", "b"]
    np.testing.assert_allclose(scores, [[1, 0, 1], [0, 1, 0], [0.5, 0, 0], [0, 0, 0]], atol=1e-12)


def portfolio(*args: object) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["portfolio", *map(str, args)])
    return done.exit_code, done.output


def test_the_points_of_two_data_sets_are_a_spaces_first_trials(
    past_run: Callable[..., Path], toy: Any, tmp_path: Path
) -> None:
    def likes(name: str) -> Callable[[Recipe], float]:
        return lambda recipe: float(recipe.backbone.name == name)

    runs = [
        past_run(tmp_path / f"{name}-{seed}", f"{toy.PAST_SPACE}seed: {seed}\n", data=name, more=likes(name))
        for name, seed in (("test_convnext", 0), ("test_resnet", 0), ("test_resnet", 1))
    ]
    code, output = portfolio(*runs, "--out", tmp_path / "points.yaml", "--size", 2)
    assert code == 0, output
    assert "so far worth 1.000 of 1" in output
    (tmp_path / "next.yaml").write_text(f"extends: points.yaml\n{toy.PAST_SPACE}", encoding="utf-8")
    first = load_space(str(tmp_path / "next.yaml")).defaults()
    assert {point["model/backbone"] for point in first[:2]} == {"test_convnext", "test_resnet"}
    assert portfolio(*reversed(runs), "--out", tmp_path / "again.yaml", "--size", 2)[0] == 0
    points = [(tmp_path / f"{name}.yaml").read_text(encoding="utf-8") for name in ("points", "again")]
    assert points[0] == points[1]


def test_one_data_set_is_no_case_for_a_portfolio(past_run: Callable[..., Path], tmp_path: Path) -> None:
    code, output = portfolio(past_run(tmp_path / "a"), past_run(tmp_path / "b"), "--out", tmp_path / "points.yaml")
    assert code == 2
    assert "on two data sets or more, got 1 (2 runs); for one data set give" in output
    assert not (tmp_path / "points.yaml").exists()
