"""A run that is finished as far as its verdict: three untrained networks on the synthetic set."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from finished_runs import make_finished_run, write_untrained

from search.run_dir import RunDir
from trainables.data.synthetic.dataset import write_synthetic
from trainables.recipe.recipe import Recipe

SPACE = """
model: {backbone: {choice: [test_convnext, test_resnet]}, pretrained: false, head: {name: segformer, channels: 16}}
augmentation: {crop_px: 32, cutmix: {p: 0.5}}
optimizer: {lr: 0.01}
train: {batch_size: 4, num_workers: 0, ema_decay: 0.9}
search: {max_epochs: 2, grace_epochs: 1, num_trials: 3}
ensemble: {resamples: 100, sample_mb: 1, folds: 2, max_sweeps: 2, postprocess: off, stacking: off}
"""
BACKBONES = ("test_convnext", "test_resnet", "test_resnet")


@pytest.fixture(scope="session")
def card(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 labelled images, and four of another drawing without labels."""
    root = tmp_path_factory.mktemp("students")
    path = write_synthetic(root / "data", num_images=24, image_px=64, seed=0)
    other = write_synthetic(root / "other", num_images=18, image_px=64, seed=7)
    (path.parent / "extra").mkdir()
    for number, picture in enumerate(sorted(other.parent.glob("batch_*/*.jpg"))[:4]):
        shutil.copy(picture, path.parent / "extra" / f"{number}.jpg")
    path.write_text(path.read_text(encoding="utf-8") + "unlabelled: {images: extra}\n", encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def finished_run(card: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run's directory; its decoded images lie in cache/ beside it."""
    run = RunDir(tmp_path_factory.mktemp("finished") / "run")
    recipes = [recipe_of(backbone, seed) for seed, backbone in enumerate(BACKBONES)]
    make_finished_run(run, card, SPACE, recipes, write_untrained)
    return run.root


@pytest.fixture(scope="session")
def folded_run(card: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The like of `finished_run` with two recipes trained on two folds, and on both."""
    run = RunDir(tmp_path_factory.mktemp("folded") / "run")
    recipes = [recipe_of(backbone, seed) for seed, backbone in enumerate(BACKBONES[:2])]
    make_finished_run(run, card, SPACE + "folds: {num: 2}\n", recipes, write_untrained)
    return run.root


def recipe_of(backbone: str, seed: int) -> Recipe:
    values: dict[str, Any] = {
        "backbone": {"name": backbone, "pretrained": False},
        "head": {"name": "segformer", "channels": 16},
        "augmentation": {"crop_px": 32, "cutmix": {"p": 0.5}},
        "optimizer": {"lr": 0.01, "warmup_epochs": 0},
        "train": {"num_epochs": 2, "batch_size": 4, "num_workers": 0, "ema_decay": 0.9},
        "seed": seed,
    }
    return Recipe.model_validate(values)
