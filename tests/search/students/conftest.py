"""A run that is finished as far as its verdict: three untrained networks on the synthetic set."""

from __future__ import annotations

from pathlib import Path

import pytest
from finished_runs import (
    TINY_SPACE,
    make_finished_run,
    tiny_recipe,
    write_card_with_unlabelled,
    write_untrained,
)

from search.run_dir import RunDir

BACKBONES = ("test_convnext", "test_resnet", "test_resnet")


@pytest.fixture(scope="session")
def card(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 labelled images, and four of another drawing without labels."""
    return write_card_with_unlabelled(tmp_path_factory.mktemp("students"))


@pytest.fixture(scope="session")
def finished_run(card: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run's directory; its decoded images lie in cache/ beside it."""
    run = RunDir(tmp_path_factory.mktemp("finished") / "run")
    recipes = [tiny_recipe(backbone, seed) for seed, backbone in enumerate(BACKBONES)]
    make_finished_run(run, card, TINY_SPACE, recipes, write_untrained)
    return run.root


@pytest.fixture(scope="session")
def folded_run(card: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The like of `finished_run` with two recipes trained on two folds, and on both."""
    run = RunDir(tmp_path_factory.mktemp("folded") / "run")
    recipes = [tiny_recipe(backbone, seed) for seed, backbone in enumerate(BACKBONES[:2])]
    make_finished_run(run, card, TINY_SPACE + "folds: {num: 2}\n", recipes, write_untrained)
    return run.root
