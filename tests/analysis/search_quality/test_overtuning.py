"""What the best of several models owes to chance, against simulations whose truth is known."""

from __future__ import annotations

import numpy as np
import pytest

from analysis.search_quality.overtuning import Overtuning, estimate_overtuning

NAMES = [f"{n:05d}" for n in range(6)]
ERROR = 0.02  # standard deviation of a score


def estimate(mious: np.ndarray, rng: np.random.Generator, **more: float | None) -> Overtuning:
    resampled = mious + rng.normal(0, ERROR, (400, len(mious)))
    spread = {"seed_spread": None, **more}["seed_spread"]
    return estimate_overtuning(NAMES, mious, resampled, [10.0] * 6, seed_spread=spread, seed=0)


@pytest.mark.parametrize("true_spread", [0.0, 0.02, 0.06])
def test_optimism_and_regret_are_those_of_repeated_searches(true_spread: float) -> None:
    rng = np.random.default_rng(0)
    told, happened = [], []
    for _ in range(400):
        true = rng.normal(0.5, true_spread, 6)
        measured = true + rng.normal(0, ERROR, 6)
        found, best = estimate(measured, rng), int(measured.argmax())
        told.append((found.optimism, found.regret))
        happened.append((measured[best] - true[best], true.max() - true[best]))
    (optimism, regret), (true_optimism, true_regret) = np.mean(told, axis=0), np.mean(happened, axis=0)
    assert 0.6 * true_optimism < optimism < 1.1 * true_optimism
    assert regret == pytest.approx(true_regret, abs=0.5 * ERROR)


def test_a_clear_winner_owes_nothing_to_chance_whatever_others_do() -> None:
    for rest in ([0.5] * 5, [0.5, 0.5, 0.5, 0.5, 0.1]):
        found = estimate(np.array([0.9, *rest]), np.random.default_rng(1))
        assert (found.optimism, found.regret) == (pytest.approx(0, abs=0.15 * ERROR), 0)


def test_seeds_add_to_what_is_owed_to_chance() -> None:
    mious = np.array([0.50, 0.52, 0.54, 0.56, 0.58, 0.60])
    images = estimate(mious, np.random.default_rng(0))
    both = estimate(mious, np.random.default_rng(0), seed_spread=0.02)
    assert both.optimism > images.optimism > 0
    assert (images.with_seeds, both.with_seeds) == (False, True)
    assert both.contenders[1].error == pytest.approx(np.hypot(images.contenders[1].error, 2**0.5 * 0.02))


def test_what_all_models_share_on_the_images_is_no_doubt_about_the_best() -> None:
    mious = np.array([0.50, 0.55, 0.60])
    common = mious + np.random.default_rng(0).normal(0, 0.1, (400, 1))
    found = estimate_overtuning("abc", mious, common, [1.0, 2.0, 3.0], seed_spread=None, seed=0)
    assert found.optimism == pytest.approx(0, abs=1e-9)  # errors are 0 on average, and never change who is best
    assert found.regret == 0
    assert found.pick.name == found.winner.name == "c"


def test_the_pick_is_the_smallest_within_one_standard_error() -> None:
    mious = np.array([0.60, 0.595, 0.59, 0.40])
    resampled = mious + np.random.default_rng(0).normal(0, 0.02, (400, 4))
    sizes = [30.0, 20.0, 25.0, 1.0]
    found = estimate_overtuning("abcd", mious, resampled, sizes, seed_spread=None, seed=0)
    assert [one.is_near for one in found.contenders] == [True, True, True, False]
    assert (found.winner.name, found.pick.name) == ("a", "b")
    unknown = estimate_overtuning("abcd", mious, resampled, [None] * 4, seed_spread=None, seed=0)
    assert unknown.pick.name == "a"


def test_one_model_or_one_group_of_images_is_refused() -> None:
    with pytest.raises(ValueError, match="at least two models whose resamples have scores, got 1 models and all"):
        estimate_overtuning("a", np.array([0.5]), np.ones((9, 1)), [1.0], seed_spread=None, seed=0)
    with pytest.raises(ValueError, match="got 2 models and resamples without a score"):
        estimate_overtuning("ab", np.array([0.5, 0.6]), np.full((9, 2), np.nan), [1.0] * 2, seed_spread=None, seed=0)
