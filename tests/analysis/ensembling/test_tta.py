"""The mean of views."""

from __future__ import annotations

import numpy as np

from analysis.ensembling.pixel_sampling import mean_of_views
from analysis.voting.view_config import IDENTITY, plain_view

NAMES = ("s0.75-none", IDENTITY, "s1.00-horizontal")


def views(strengths: tuple[float, ...], shared: bool) -> tuple[np.ndarray, np.ndarray]:
    """(V,K,P) of views with their own noise, or with one noise that all share."""
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 4, 6000).astype(np.uint8)
    logits = 1.5 * rng.normal(size=(1 if shared else 3, 4, 6000)).repeat(3 if shared else 1, 0)
    logits[:, truth, np.arange(6000)] += np.array(strengths)[:, None]
    q = np.exp(logits)
    return (q / q.sum(1, keepdims=True)).astype(np.float32), truth


def test_without_an_identity_view_the_first_one_is_plain() -> None:
    assert plain_view(NAMES) == IDENTITY
    assert plain_view(("a", "b", "c")) == "a"


def test_the_mean_is_that_of_the_chosen_views() -> None:
    q, _ = views((1.0, 1.0, 1.0), shared=False)
    out = np.empty(q.shape[1:], np.float32)
    mean_of_views(q, NAMES, (IDENTITY, "s0.75-none"), out)
    np.testing.assert_allclose(out, (q[1] + q[0]) / 2, atol=1e-7)
