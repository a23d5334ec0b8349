"""A finished run in miniature: three checkpoints, three images and the ensemble.json that joins them."""

from __future__ import annotations

import pytest
from factories import TinyRun, make_tiny_run


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> TinyRun:
    """Three members of two recipes: the second candidate has no weight in the shipped rule."""
    return make_tiny_run(tmp_path_factory.mktemp("run"))
