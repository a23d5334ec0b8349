"""docs/space.md names every key that a space may hold."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path

import pytest

from search.space import options
from trainables.recipe import recipe
from trainables.recipe.config import Config

DECIDED_ELSEWHERE = {"num_epochs", "name"}  # by search.max_epochs; by the branch or the plain value
TEXT = (Path(__file__).parents[3] / "docs" / "space.md").read_text(encoding="utf-8")


def parts() -> Iterator[type[Config]]:
    for module in (recipe, options):
        for _, cls in inspect.getmembers(module, inspect.isclass):
            if issubclass(cls, Config) and cls not in (Config, recipe.Recipe, options.Options):
                yield cls


@pytest.mark.parametrize("cls", sorted(set(parts()), key=lambda cls: cls.__name__), ids=lambda cls: cls.__name__)
def test_every_key_is_documented(cls: type[Config]) -> None:
    missing = [key for key in cls.model_fields if key not in DECIDED_ELSEWHERE and f"`{key}`" not in TEXT]
    assert not missing
