"""Recipes found in spaces: of every shipped space what it draws, and why another space does not hold one."""

from __future__ import annotations

from pathlib import Path

import optuna
import pytest
from optuna.samplers import RandomSampler

from search.space.space import Space, load_space
from search.space.space_file import shipped_spaces

SPACES = [name for name in shipped_spaces() if name != "base.yaml"]
TEXT = """
model:
  backbone: {choice: [test_convnext, test_resnet]}
  head: {choice: {segformer: {channels: {int: [16, 64]}}, fpn: {}}}
augmentation: {crop_px: {choice: [64, 96]}, mosaic: {p: {float: [0.0, 0.5]}}}
optimizer: {lr: {log: [1.0e-4, 1.0e-2]}}
search: {max_epochs: 9, grace_epochs: 1}
"""


def space_of(folder: Path, **changes: str) -> Space:
    text = TEXT
    for old, new in changes.values():
        assert old in text
        text = text.replace(old, new)
    (folder / "space.yaml").write_text(text, encoding="utf-8")
    return load_space(str(folder / "space.yaml"))


@pytest.mark.parametrize("profile", [None, "cpu"])
@pytest.mark.parametrize("name", SPACES)
def test_what_a_space_draws_is_found_in_it(name: str, profile: str | None) -> None:
    space, study = load_space(name, profile=profile), optuna.create_study(sampler=RandomSampler(seed=0))
    for _ in range(12):
        trial = study.ask()
        assert space.parameters_of(space.suggest(trial)) == trial.params


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("float: [0.0, 0.5]", "float: [0.0, 0.9]"), ("log: [1.0e-4, 1.0e-2]", "float: [1.0e-4, 1.0e-2]"),
        ("test_resnet]", "test_resnet, test_efficientnet]"), ("max_epochs: 9", "max_epochs: 30"),
        ("choice: [64, 96]", "choice: [96, 128, 64]"), ("fpn: {}", "fpn: {}, pan: {}"),
    ],
)  # fmt: skip
def test_a_wider_space_holds_the_same_recipes(old: str, new: str, tmp_path: Path) -> None:
    space, study = space_of(tmp_path), optuna.create_study(sampler=RandomSampler(seed=0))
    wider = space_of(tmp_path, change=(old, new))
    for _ in range(6):
        trial = study.ask()
        assert wider.parameters_of(space.suggest(trial)) == trial.params


@pytest.mark.parametrize(
    ("old", "new", "outside"),
    [
        (
            "test_convnext, test_resnet",
            "test_efficientnet, test_resnet",
            "backbone.name 'test_convnext'$",
        ),
        ("log: [1.0e-4, 1.0e-2]", "log: [1.0e-6, 1.0e-5]", r"optimizer.lr 0.001$"),
        ("choice: [64, 96]", "choice: [96, 128]", "augmentation.crop_px 64"),
        ("optimizer: {", "loss: {name: dice}\noptimizer: {weight_decay: 0.1, ", "loss.name 'cross.*weight_decay 0.05"),
    ],
)
def test_a_recipe_outside_a_space_is_told_by_its_values(old: str, new: str, outside: str, tmp_path: Path) -> None:
    space = space_of(tmp_path)
    recipe = space.suggest(optuna.trial.FixedTrial(space.defaults()[0]))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=outside):
        space_of(tmp_path, change=(old, new)).parameters_of(recipe)


def test_a_value_that_was_searched_may_be_fixed(tmp_path: Path) -> None:
    space = space_of(tmp_path)
    parameters = space.defaults()[0]
    recipe = space.suggest(optuna.trial.FixedTrial(parameters))  # type: ignore[arg-type]
    found = space_of(tmp_path, change=("lr: {log: [1.0e-4, 1.0e-2]}", "lr: 0.001")).parameters_of(recipe)
    assert found == {name: value for name, value in parameters.items() if name != "optimizer/lr"}
