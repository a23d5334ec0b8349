"""Which differences a noise floor calls ties."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from analysis.search_quality.noise_floor import NoiseFloor, read_noise_floor

FLOOR = NoiseFloor(trial="00002", seeds=(1, 2, 3), mious=(0.50, 0.52, 0.54))


def test_the_limit_is_isos_repeatability_limit() -> None:
    assert pytest.approx(0.02) == FLOOR.spread
    assert pytest.approx(1.96 * 2**0.5 * 0.02) == FLOOR.limit


def test_two_runs_of_one_recipe_differ_by_less_in_95_of_100_cases() -> None:
    rng = np.random.default_rng(0)
    floor = NoiseFloor(trial="t", seeds=tuple(range(2000)), mious=tuple(rng.normal(0.5, 0.01, 2000)))
    pairs = rng.normal(0.5, 0.01, (20000, 2))
    assert (np.abs(np.diff(pairs)) < floor.limit).mean() == pytest.approx(0.95, abs=0.01)


@pytest.mark.parametrize("num_ties", [2, 5, 20])
def test_the_best_of_equal_trials_flatters_itself(num_ties: int) -> None:
    best = np.random.default_rng(1).normal(0, FLOOR.spread, (20000, num_ties)).max(1).mean()
    assert FLOOR.optimism(num_ties) == pytest.approx(best, rel=0.08)
    assert FLOOR.optimism(1) == 0.0


def test_ties_lie_within_the_limit_of_the_best() -> None:
    mious = {"a": 0.60, "b": 0.65, "c": 0.55, "d": 0.5933}
    assert FLOOR.ties(mious) == ["b", "a"]
    same = NoiseFloor(trial="t", seeds=(1, 2), mious=(0.5, 0.5))
    assert same.ties(mious) == ["b"]
    assert "no trial is a tie with the best one" in same.describe(mious)
    assert "differences below 0.0554 mIoU are ties; 2 trials are ties with the best one: b, a" in FLOOR.describe(mious)


def test_a_file_that_is_none_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "noise.json"
    assert read_noise_floor(path) is None
    path.write_text(FLOOR.model_dump_json())
    assert read_noise_floor(path) == FLOOR
    path.write_text('{"trial": "a", "seeds": [1], "mious": [0.1]}')
    with pytest.raises(ValueError, match="must be a noise floor"):
        read_noise_floor(path)
