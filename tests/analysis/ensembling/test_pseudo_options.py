"""The options of pseudo labels."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from analysis.ensembling.pseudo_options import TARGET_PRECISION, Pseudo, PseudoOptions


def test_a_precision_is_of_all_classes_or_of_those_named() -> None:
    assert Pseudo(target_precision=0.8).targets(("a", "b")) == (0.8, 0.8)
    assert Pseudo(target_precision={"b": 0.99}).targets(("a", "b")) == (TARGET_PRECISION, 0.99)


def test_a_share_or_several_are_tried_and_survive_json() -> None:
    assert (Pseudo(share=0.25).shares, Pseudo(share=(0.25,)).shares) == ((0.25,), (0.25,))
    asked = PseudoOptions(share=(0.25, 0.5), target_precision={"b": 1})
    assert asked.shares == (0.25, 0.5)
    assert PseudoOptions.model_validate_json(asked.model_dump_json()) == asked


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"target_precision": 1.5}, "a number from 0 to 1, or a mapping of class names to such numbers, got 1.5"),
        ({"target_precision": {"a": "high"}}, "got {'a': 'high'}"),
        ({"target_precision": True}, "got True"),
        ({"share": []}, "a list of different ones to try"),
        ({"share": [0.5, 0.5]}, "a list of different ones to try"),
        ({"share": {"float": [0, 1]}}, "a list of different ones to try"),
        ({"schedule": "twice"}, "'scratch', 'continue', 'continue_then_real' or 'consistency'"),
        ({"schedule": "consistency", "cap": 3.0}, "that the schedule consistency reads, got cap"),
    ],
)
def test_each_rule_is_told(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError) as refused:
        Pseudo(**values)
    assert message in str(refused.value)
