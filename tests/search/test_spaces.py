"""The shipped spaces: valid in every profile, and what they promise."""

from __future__ import annotations

import re
from importlib import resources

import jsonschema
import optuna
import pytest

from search.schema import json_schema
from search.space import Space, load_space, profile_names
from search.space_file import shipped_spaces
from search.space_yaml import parse_yaml

SPACES = [name for name in shipped_spaces() if name != "base.yaml"]
PROFILES = [(name, profile) for name in SPACES for profile in (None, *profile_names(name))]


@pytest.mark.parametrize("name", shipped_spaces())
def test_it_fits_the_schema(name: str) -> None:
    text = (resources.files("spaces") / name).read_text(encoding="utf-8")
    jsonschema.Draft202012Validator(json_schema()).validate(parse_yaml(text, name))


@pytest.mark.parametrize("name", SPACES)
def test_the_header_tells_cost_and_command(name: str) -> None:
    text = (resources.files("spaces") / name).read_text(encoding="utf-8")
    header = re.match(r"(#.*\n)+", text)
    assert header is not None
    assert f"python search/run.py --space {name}" in header.group()
    assert f"{load_space(name).options.search.num_trials} trials" in header.group()


@pytest.mark.parametrize(("name", "profile"), PROFILES)
def test_every_profile_loads_and_suggests(name: str, profile: str | None) -> None:
    space = load_space(name, profile=profile)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    recipes = {space.suggest(study.ask()).hash for _ in range(20)}
    assert len(recipes) == 20
    assert len(space.defaults()) <= space.options.search.num_trials


@pytest.mark.parametrize("name", SPACES)
def test_the_cpu_profile_needs_no_download_and_no_gpu(name: str) -> None:
    space: Space = load_space(name, profile="cpu")
    recipes = [space.suggest(optuna.trial.FixedTrial(default)) for default in space.defaults()]  # type: ignore[arg-type]
    assert not any(recipe.backbone.pretrained for recipe in recipes)
    assert (space.options.resources.gpu, recipes[0].train.num_workers) == (0, 0)


def test_convnext_middles_are_the_papers() -> None:
    default = load_space("convnext.yaml").defaults()[0]
    shown = [default[f"{name}"] for name in ("optimizer/lr", "optimizer/weight_decay", "optimizer/layer_decay")]
    assert shown == [1e-4, 0.05, 0.9]
    assert default["model/drop_path"] == 0.4
