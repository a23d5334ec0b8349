"""Which repeats a noise floor is made of; the stage itself runs in tests/search/test_run.py."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import ValidationError

from search.run_dir import RunDir
from search.space.options import Options, Search
from search.stages import noise
from search.stages.stage import Context
from trainables.data.index import Split
from trainables.recipe.recipe import Recipe

SPLIT = Split(("0.png", "1.png"), ("2.png",), ("3.png",), "split")
RECIPE = Recipe.model_validate({"backbone": {"name": "resnet18", "pretrained": False}, "head": {"name": "fpn"}})


def context_of(root: Path, said: list[str], repeats: int) -> Context:
    options = Options.model_validate({"search": {"noise_repeats": repeats}, "seed": 5})
    return Context(
        RunDir(root),
        SimpleNamespace(options=options),  # type: ignore[arg-type]
        SimpleNamespace(split=SPLIT),  # type: ignore[arg-type]
        said.append,
        datetime.now,
    )


def test_repeats_are_one_recipe_under_seeds_that_follow_from_the_runs(tmp_path: Path) -> None:
    plan: Any = SimpleNamespace(recipe=RECIPE)
    jobs = noise.repeats(plan, context_of(tmp_path, [], 3))
    assert [job.fold for job in jobs] == [0, 1, 2]
    assert {job.split for job in jobs} == {SPLIT}
    assert len({job.recipe.seed for job in jobs} | {RECIPE.seed}) == 4
    assert {job.recipe.model_copy(update={"seed": RECIPE.seed}) for job in jobs} == {RECIPE}
    assert jobs == noise.repeats(plan, context_of(tmp_path, [], 3))


def test_off_is_said(tmp_path: Path) -> None:
    said: list[str] = []
    noise.run(context_of(tmp_path, said, 0))
    assert said == ["noise: off; with search.noise_repeats=3, the report would tell which differences are ties"]
    assert not (tmp_path / "noise.json").exists()


def test_one_repeat_has_no_spread() -> None:
    with pytest.raises(ValidationError, match=r"must be 0 .off. or at least 2, got 1"):
        Search(noise_repeats=1)
