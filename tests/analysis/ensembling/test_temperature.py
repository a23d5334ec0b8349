"""Temperatures: found where they are known, never worse, and the same on a sample as on stored logits."""

from __future__ import annotations

import numpy as np
import pytest

from analysis.ensembling.temperature import add_tempered, fit_temperature, nll


def softmax(logits: np.ndarray) -> np.ndarray:  # (..,K,P)
    e = np.exp(logits - logits.max(-2, keepdims=True))
    out: np.ndarray = (e / e.sum(-2, keepdims=True)).astype(np.float32)
    return out


def sample(seed: int = 0, num_views: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Logits (V,K,P), and labels drawn from their softmax: so their temperature is 1."""
    rng = np.random.default_rng(seed)
    logits = 2 * rng.normal(size=(num_views, 5, 20000))
    truth = (rng.random(20000) < softmax(logits[0]).cumsum(0)).argmax(0).astype(np.uint8)
    return logits, truth


@pytest.mark.parametrize("factor", [3.0, 1.0, 0.5])
def test_logits_times_a_factor_have_a_temperature_times_it(factor: float) -> None:
    logits, truth = sample()
    plain = fit_temperature(softmax(logits), truth)
    assert plain == pytest.approx(1, abs=0.05)
    assert fit_temperature(softmax(factor * logits), truth) == pytest.approx(factor * plain, rel=1e-3)


@pytest.mark.parametrize("seed", range(5))
def test_the_likelihood_never_falls_and_no_other_temperature_has_a_higher_one(seed: int) -> None:
    logits, truth = sample(seed, num_views=2)
    truth[:500] = 255
    q = softmax((0.3 + seed) * logits)
    found = fit_temperature(q, truth)
    assert nll(q, truth, found) <= nll(q, truth, 1.0)
    assert all(nll(q, truth, found) <= nll(q, truth, found * near) for near in (0.9, 0.99, 1.01, 1.1))


def test_noise_is_cooled_to_the_bound_and_perfection_heated_to_it() -> None:
    logits, _ = sample()
    worst = logits[0].argmin(0).astype(np.uint8)
    assert fit_temperature(softmax(logits), worst) == pytest.approx(16, rel=1e-3)
    assert fit_temperature(softmax(logits), logits[0].argmax(0).astype(np.uint8)) == pytest.approx(1 / 16, rel=1e-3)


def test_a_power_of_the_probabilities_is_the_softmax_of_divided_logits() -> None:
    logits, _ = sample()
    out = np.zeros((5, 20000), np.float32)
    add_tempered(softmax(logits[0]), 2.5, np.float32(1), out)
    np.testing.assert_allclose(out, softmax(logits[0] / 2.5), atol=1e-6)
