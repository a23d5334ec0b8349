"""A finished run in miniature: three checkpoints, three images, the ensemble.json that joins them, its bundle."""

from __future__ import annotations

from pathlib import Path

import pytest
from factories import TinyRun, make_tiny_run
from PIL import Image


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> TinyRun:
    """Three members of two recipes: the second candidate has no weight in the shipped rule."""
    return make_tiny_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="session")
def tiny_bundle(tiny_run: TinyRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle of the run's own rule."""
    from analysis.bundle.export import BundleFacts, export

    facts = BundleFacts("trash", "data", "split")
    return export(facts, tiny_run.ensemble, tiny_run.weights, tmp_path_factory.mktemp("shipped") / "bundle")


@pytest.fixture
def photos(tiny_run: TinyRun, tmp_path: Path) -> Path:
    """The run's images as files: a.png and b/c.png of one size, b/d.png of another."""
    folder = tmp_path / "photos"
    for name, image in tiny_run.images.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / name)
    return folder
