"""Recipe rules, found before a trial meets them and told by YAML path."""

from __future__ import annotations

import pytest

from search.nodes import Choice, Range
from search.probes import middle
from search.space import SpaceProblems, load_space

BRANCHES = "model.head={choice: {segformer: {}, upernet: {channels: {int: [4, 64]}}}}"


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("augmentation.crop_px=500", "augmentation.crop_px: must be divisible by 32, got 500; use 480 or 512"),
        (
            "augmentation.crop_px={choice: [512, 500]}",
            "augmentation.crop_px: must be divisible by 32, got 500; use 480 or 512",
        ),
        ("augmentation.crop_px={int: [512, 640]}", "augmentation.crop_px: must be divisible by 32, got 513"),
        ("train={batch_size: {int: [6, 8]}, accumulate: 2}", "train.accumulate: must divide batch_size, got 2 and 7"),
        ("train={batch_size: {float: [4, 8]}, accumulate: 1}", "train.batch_size: must be a whole number"),
        ("augmentation.hflip_p={float: [0, 1.5]}", "augmentation.hflip_p: must be less than or equal to 1, got 1.5"),
        ("optimizer.lr=fast", "optimizer.lr: must be a valid number"),
        ("train.amp=bf1", "train.amp: must be 'auto', 'bf16', 'fp16' or 'off', got 'bf1'; did you mean 'bf16'?"),
        (BRANCHES, "model.head.choice.upernet.channels: must be greater than or equal to 8, got 4 (and 3 more values)"),
        ("model.drop_path={float: [0, 2]}", "model.drop_path: must be less than or equal to 1, got 2.0"),
    ],
)
def test_a_rule_that_some_recipe_breaks(override: str, problem: str) -> None:
    with pytest.raises(SpaceProblems) as caught:
        load_space("convnext.yaml", overrides=[override])
    assert len(caught.value.problems) == 1
    assert caught.value.problems[0].startswith(problem)


def test_two_ranges_that_are_fine_alone_and_not_together() -> None:
    # the middles are 1.0 and 1.5: each end alone keeps scale_min below scale_max
    override = "augmentation={scale_min: {float: [0.5, 1.5]}, scale_max: {float: [1.0, 2.0]}}"
    with pytest.raises(SpaceProblems, match=r"scale_min: must not exceed scale_max, got 1.5 and 1.0"):
        load_space("convnext.yaml", overrides=[override])


def test_a_faulty_field_does_not_hide_the_other_rules_of_its_section() -> None:
    with pytest.raises(SpaceProblems) as caught:
        load_space("convnext.yaml", overrides=["augmentation={hflip_p: 2, crop_px: 100, scale_min: 3}"])
    paths = [problem.split(":")[0] for problem in caught.value.problems]
    assert paths == ["augmentation.hflip_p", "augmentation.crop_px", "augmentation.scale_min"]


@pytest.mark.parametrize(
    ("kind", "low", "high", "expected"),
    [("float", 0.0, 1.0, 0.5), ("log", 1e-5, 1e-3, 1e-4), ("int", 1, 4, 2), ("float", 0.12341, 0.12344, 0.12341)],
)
def test_the_middle_of_a_range(kind: str, low: float, high: float, expected: float) -> None:
    assert middle(Range((), "p", kind, low, high)) == expected  # type: ignore[arg-type]


def test_the_default_of_a_choice_is_its_first_item() -> None:
    assert middle(Choice((), "p", ([3, 4], [1, 2]))) == [3, 4]
