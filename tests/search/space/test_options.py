"""The rules of the options."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from search.space.options import Ensemble, Folds, Options, Resources, Search, SplitShares, Tta


def test_defaults_hold_and_are_frozen() -> None:
    options = Options()
    assert (options.ensemble.candidates, options.ensemble.max_per_family, options.search.max_concurrent) == (6, 3, None)
    with pytest.raises(ValidationError):
        options.search.num_trials = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("part", "values", "message"),
    [
        (Search, {"max_epochs": 4, "grace_epochs": 5}, "use 1 to 4"),
        (Search, {"num_trials": 0}, "greater than or equal to 1"),
        (Search, {"reduction_factor": 1}, "greater than or equal to 2"),
        (Tta, {"scales": [1.0, 1.001]}, "1.00 again"),
        (Tta, {"scales": []}, "at least 1"),
        (Tta, {"flips": ["none", "none"]}, "none again"),
        (Resources, {"gpu": 1.5}, "use 1 or 2"),
        (Resources, {"cpu": 0}, "greater than 0"),
        (SplitShares, {"val_share": 0.6, "holdout_share": 0.4}, "keep their sum under 1"),
        (Ensemble, {"folds": 1}, "greater than or equal to 2"),
        (Folds, {"num": 1}, "use 0 to turn them off, or 2 or more"),
        (Folds, {"num": -1}, "greater than or equal to 0"),
        (Options, {"trackers": ["mlflw"]}, "'wandb'"),
        (Options, {"seed": -1}, "greater than or equal to 0"),
    ],
)
def test_each_rule_is_told(part: Any, values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        part(**values)


def test_half_a_gpu_and_two_whole_ones_are_fine() -> None:
    assert (Resources(gpu=0.5).gpu, Resources(gpu=2, cpu=8).gpu) == (0.5, 2.0)
