"""Drift between val and the hold-out, told by pixels alone."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from analysis.dataset.run_checks import drift


@pytest.mark.parametrize(
    ("brighter", "said"),
    [
        (0, "val cannot be distinguished from the hold-out by colour, light, texture and shape"),
        (90, "val differs from"),
    ],
)
def test_drift_is_told_where_images_differ(brighter: int, said: str) -> None:
    rng = np.random.default_rng(0)
    images = {f"{n}": rng.integers(0, 160, (24, 24, 3)).astype(np.uint8) for n in range(48)}
    val, holdout = list(images)[:24], list(images)[24:]
    for name in holdout:
        images[name] += np.uint8(brighter)
    cache: Any = SimpleNamespace(image=images.__getitem__)
    assert drift(cache, val, holdout, {}, seed=0).startswith(said)


def test_few_images_are_not_compared() -> None:
    nothing: Any = None
    assert drift(nothing, ["a"], ["b"], {}, seed=0) == "drift needs 8 images of val and of the hold-out, got 1 and 1"
