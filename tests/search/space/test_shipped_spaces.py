"""The shipped spaces: valid in every profile, and what they promise."""

from __future__ import annotations

import re
from importlib import resources
from pathlib import Path

import jsonschema
import optuna
import pytest
import yaml

from search.space.allowed_keys import recipe_grammar
from search.space.json_schema import json_schema
from search.space.space import Space, load_space, profile_names
from search.space.space_file import shipped_spaces
from search.space.yaml_format import parse_yaml
from trainables.models.backbone_names import backbone_tags

ROWS = [
    "convnext+upernet",
    "convnext+knet",
    "swin+knet",
    "beit+upernet",
    "twins+upernet",
    "vit+upernet",
    "vit+segmenter",
]
ROWS += ["vit+setr_naive", "mit+segformer", "vit+segmenter", "mobilenetv4+segformer"]
ROWS += ["efficientvit+segformer"]  # of a row that is in the table, but of another family


def load(name: str, profile: str | None = None) -> Space:
    """The space; a test that needs a head or a backbone which is not built here is skipped."""
    named = recipe_grammar().keys["model"].keys["head"].named  # type: ignore[union-attr]
    text = (resources.files("spaces") / name).read_text(encoding="utf-8")
    missing = [head for head in ("knet", "segmenter", "setr_naive", "setr_pup", "dpt") if head not in named]
    lacking = [head for head in missing if f"{head}:" in text]
    if "mit_b" in text and "mit_b0" not in backbone_tags():
        lacking.append("mit_b0")
    if lacking:
        pytest.skip(f"{name} needs {', '.join(lacking)}")
    return load_space(name, profile=profile)


SPACES = [name for name in shipped_spaces() if name != "base.yaml"]
PROFILES = [(name, profile) for name in SPACES for profile in (None, *profile_names(name))]


@pytest.mark.parametrize("name", shipped_spaces())
def test_it_fits_the_schema(name: str) -> None:
    load(name) if name != "base.yaml" else None
    text = (resources.files("spaces") / name).read_text(encoding="utf-8")
    jsonschema.Draft202012Validator(json_schema()).validate(parse_yaml(text, name))


@pytest.mark.parametrize("name", SPACES)
def test_the_header_tells_cost_and_command(name: str) -> None:
    text = (resources.files("spaces") / name).read_text(encoding="utf-8")
    header = re.match(r"(#.*\n)+", text)
    assert header is not None
    assert f"python search/run.py --space {name}" in header.group()
    assert f"{load(name).options.search.num_trials} trials" in header.group()


@pytest.mark.parametrize(("name", "profile"), PROFILES)
def test_every_profile_loads_and_suggests(name: str, profile: str | None) -> None:
    space = load(name, profile)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    recipes = {space.suggest(study.ask()).hash for _ in range(20)}
    assert len(recipes) == 20
    assert len(space.defaults()) <= space.options.search.num_trials


@pytest.mark.parametrize(("name", "profile"), PROFILES)
def test_a_resolved_space_survives_any_yaml_library(name: str, profile: str | None, tmp_path: Path) -> None:
    space = load(name, profile)
    file = tmp_path / name
    file.write_text(yaml.safe_dump(yaml.safe_load(space.to_yaml())), encoding="utf-8")
    again = load_space(str(file))
    assert (again.tree, again.root, again.options) == (space.tree, space.root, space.options)


@pytest.mark.parametrize("name", SPACES)
def test_the_cpu_profile_needs_no_download_and_no_gpu(name: str) -> None:
    space: Space = load(name, "cpu")
    recipes = [space.suggest(optuna.trial.FixedTrial(default)) for default in space.defaults()]  # type: ignore[arg-type]
    assert not any(recipe.backbone.pretrained for recipe in recipes)
    assert (space.options.resources.gpu, recipes[0].train.num_workers) == (0, 0)


def test_convnext_middles_are_the_papers() -> None:
    default = load_space("convnext.yaml").defaults()[0]
    shown = [default[f"{name}"] for name in ("optimizer/lr", "optimizer/weight_decay", "optimizer/layer_decay")]
    assert shown == [1e-4, 0.05, 0.9]
    assert default["model/drop_path"] == 0.4


@pytest.mark.parametrize("profile", [None, "cpu"])
def test_all_begins_with_every_row_of_the_table(profile: str | None) -> None:
    space = load("all.yaml", profile)
    recipes = [space.suggest(optuna.trial.FixedTrial(default)) for default in space.defaults()]  # type: ignore[arg-type]
    assert [f"{recipe.family}+{recipe.head.name}" for recipe in recipes] == ROWS
    assert len(recipes) <= space.options.search.num_trials
