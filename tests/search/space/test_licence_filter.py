"""`licences: commercial`: weights that go from a choice, and those that are refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from search.space.problems import SpaceProblems
from search.space.space import Space, load_space
from trainables.models.licences import CommercialUse, commercial_use, published_licence

FREE, BOUND = "convnext_atto.d2_in1k", "convnextv2_atto.fcmae_ft_in1k"
HEAD = ", head: segformer"


def space_of(folder: Path, model: str, more: str = "", licences: str = "commercial") -> Space:
    path = folder / "space.yaml"
    path.write_text(f"model: {{{model}{HEAD if 'head' not in model else ''}}}\n{more}\nlicences: {licences}\n")
    return load_space(str(path))


def backbones(space: Space) -> dict[str, tuple[str, ...]]:
    return {each.name: each.values for each in space.parameters() if each.name.startswith("model")}


def test_a_choice_loses_what_may_not_be_used(tmp_path: Path) -> None:
    space = space_of(tmp_path, f"backbone: {{choice: [{BOUND}, {FREE}]}}")
    assert backbones(space) == {"model/backbone": (FREE,)}
    [line] = space.warnings()
    assert line.startswith("left out: model.backbone: weights must allow commercial use under licences: commercial")
    assert f"got '{BOUND}' (cc-by-nc-4.0: " in line
    both = space_of(tmp_path, f"backbone: {{choice: [{BOUND}, {FREE}]}}", licences="any")
    assert backbones(both) == {"model/backbone": (BOUND, FREE)}


def test_a_branch_or_a_row_goes_whole(tmp_path: Path) -> None:
    branches = space_of(tmp_path, f"backbone: {{choice: {{{BOUND}: {{}}, {FREE}: {{}}}}}}")
    assert backbones(branches) == {"model/backbone/name": (FREE,)}
    rows = f"choice: {{a: {{backbone: {BOUND}, head: upernet}}, b: {{backbone: {FREE}, head: segformer}}}}"
    assert backbones(space_of(tmp_path, rows)) == {"model/name": ("b",)}


@pytest.mark.parametrize(
    ("model", "path"),
    [
        (f"backbone: {BOUND}", "model.backbone"),
        (f"backbone: {{choice: [{BOUND}, mit_b0]}}", "model.backbone"),
        (f"choice: {{a: {{backbone: {BOUND}, head: upernet}}}}", "model.choice.a.backbone"),
        ("backbone: resnet50.bamboo", "model.backbone"),  # timm names no licence
    ],
)
def test_a_weight_that_is_named_outright_is_refused(model: str, path: str, tmp_path: Path) -> None:
    with pytest.raises(SpaceProblems) as caught:
        space_of(tmp_path, model)
    assert all(problem.startswith(f"{path}: weights must allow commercial use") for problem in caught.value.problems)


def test_a_point_that_names_one_is_refused_with_the_licence(tmp_path: Path) -> None:
    with pytest.raises(SpaceProblems) as caught:
        space_of(tmp_path, f"backbone: {{choice: [{BOUND}, {FREE}]}}", f"points: [{{model/backbone: {BOUND}}}]")
    licence, point = caught.value.problems
    assert "cc-by-nc-4.0" in licence
    assert point.startswith(f"points[0]: model/backbone must be one of {FREE}, got '{BOUND}'")


@pytest.mark.parametrize("more", ["pretrained: false", "weights_file: pyproject.toml"])
def test_other_weights_than_the_published_ones_are_not_looked_at(more: str, tmp_path: Path) -> None:
    assert not space_of(tmp_path, f"backbone: {BOUND}, {more}").warnings()


def test_every_shipped_row_has_a_commercial_weight_or_goes() -> None:
    space = load_space("all.yaml", overrides=["licences=commercial"])
    names = [name for each in space.parameters() if each.name.endswith("backbone") for name in each.values]
    assert names
    assert all(commercial_use(published_licence(name)) <= CommercialUse.ON_TERMS for name in names)
    rows = next(each.values for each in space.parameters() if each.name == "model/name")
    assert "segformer" not in rows
    assert any("points[" in line for line in space.warnings())
