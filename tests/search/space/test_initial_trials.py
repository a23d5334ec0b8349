"""A table of models, and the settings that are tried first."""

from __future__ import annotations

from pathlib import Path

import optuna
import pytest

from search.space.problems import SpaceProblems
from search.space.space import Space, load_space

SPACE = """
model:
  choice:
    conv: {backbone: {choice: [convnext_atto, convnext_femto]}, head: {choice: {upernet: {}, segformer: {}}}}
    res: {backbone: resnet18, head: {name: segformer, channels: {choice: [64, 128]}}}
optimizer: {lr: {log: [1.0e-5, 1.0e-3]}}
points:
  - {model: res, model/res/head/channels: 128, optimizer/lr: 2.0e-4}
"""


def load(folder: Path, text: str) -> Space:
    (folder / "s.yaml").write_text(text)
    return load_space(str(folder / "s.yaml"))


def test_points_come_first_then_the_other_families(tmp_path: Path) -> None:
    space = load(tmp_path, SPACE)
    assert space.defaults() == [
        {"model/name": "res", "model/res/head/channels": 128, "optimizer/lr": 2e-4},
        {
            "model/name": "conv",
            "model/conv/backbone": "convnext_atto",
            "model/conv/head/name": "upernet",
            "optimizer/lr": 1e-4,
        },
    ]


def test_a_row_is_taken_whole(tmp_path: Path) -> None:
    space = load(tmp_path, SPACE)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    recipes = [space.suggest(study.ask()) for _ in range(40)]
    pairs = {(recipe.family, recipe.head.name) for recipe in recipes}
    assert pairs == {("convnext", "upernet"), ("convnext", "segformer"), ("resnet", "segformer")}


def test_the_resolved_space_reads_back_with_its_points(tmp_path: Path) -> None:
    space = load(tmp_path, SPACE)
    (tmp_path / "again").mkdir()
    assert load(tmp_path / "again", space.to_yaml()).defaults() == space.defaults()


@pytest.mark.parametrize(
    ("point", "problem"),
    [
        ("{optimizer/lrr: 1}", r"points[0]: 'optimizer/lrr' is not a searched parameter of this space"),
        ("{optimizer/lr: 1.0}", "points[0]: optimizer/lr must be in [1e-05, 0.001], got 1.0"),
        ("{model: vit}", "points[0]: model/name must be one of conv, res, got 'vit'"),
        ("{model: res, model/conv/head: upernet}", "points[0]: model/conv/head/name belongs to a branch"),
        ("3", "points: must be a list of mappings"),
    ],
)
def test_a_point_outside_the_space_is_told(tmp_path: Path, point: str, problem: str) -> None:
    text = SPACE.split("points:")[0] + f"points: [{point}]"
    with pytest.raises(SpaceProblems) as caught:
        load(tmp_path, text)
    assert any(line.startswith(problem) for line in caught.value.problems), caught.value.problems


def test_a_row_without_a_head_is_told_by_its_path(tmp_path: Path) -> None:
    with pytest.raises(SpaceProblems, match=r"model\.choice\.conv\.head: missing"):
        load(tmp_path, "model: {choice: {conv: {backbone: convnext_atto}}}")


def test_points_that_an_override_makes_impossible_are_left_out_and_said() -> None:
    whole = load_space("vit.yaml", profile="cpu")
    fixed = load_space("vit.yaml", profile="cpu", overrides=["model.head={name: setr_naive, channels: 64}"])
    assert len(whole.points) > len(fixed.points)
    assert any("left out, since --set changed the space: points[0]" in line for line in fixed.warnings())


@pytest.mark.parametrize("value", ["{a: 1}", "[conv]", "1"])
def test_a_value_that_is_no_name_is_refused(tmp_path: Path, value: str) -> None:
    with pytest.raises(SpaceProblems, match=r"points\[0\]: model/name must be one of conv, res, got"):
        load(tmp_path, SPACE.replace("{model: res, model/res/head/channels: 128,", f"{{model: {value},"))


def test_a_row_that_lacks_a_part_is_one_problem(tmp_path: Path) -> None:
    with pytest.raises(SpaceProblems, match=r"1 problem\n  model.choice.b.head: missing"):
        load(tmp_path, "model: {choice: {a: {backbone: resnet18, head: upernet}, b: {backbone: resnet18}}}")


def test_long_choices_are_refused_and_pairs_of_them_take_no_minutes(tmp_path: Path) -> None:
    def choices(num: int) -> str:
        items = f"{{choice: [{', '.join(f'{n + 1}.0e-6' for n in range(num))}]}}"
        return f"model: {{backbone: resnet18, head: upernet}}\noptimizer: {{lr: {items}, weight_decay: {items}}}"

    load(tmp_path, choices(200))
    with pytest.raises(SpaceProblems, match="at most 500 items, got 501"):
        load(tmp_path, choices(501))
