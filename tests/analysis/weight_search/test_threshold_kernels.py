"""Where along a line a pixel changes its label, against the labels at many points of the line."""

from __future__ import annotations

import numpy as np
import pytest

from analysis.weight_search.line_search import Counts, Events, WeightInterval
from analysis.weight_search.pixels import Pixels, WeightBounds
from analysis.weight_search.strata import Strata

M, K, P, BINS = 3, 4, 1500, 32
STRATA = Strata((1000, P), (1, 4))
TIMES = STRATA.per_pixel()
EVERY = np.ones(BINS + 1, bool)


def problem(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    q = np.ascontiguousarray(rng.dirichlet(np.ones(K), (M, P)).transpose(0, 2, 1), np.float32)
    truth = rng.integers(0, K, P).astype(np.uint8)
    truth[::9] = 255
    return q, rng.uniform(0.2, 2, (M, K)).astype(np.float32), truth


def counts_at(q: np.ndarray, weights: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """hits (K,) and predicted (K,), each pixel as often as it counts, of labels in float64."""
    label, kept = np.einsum("mk,mkp->kp", weights.astype(np.float64), q).argmax(0), truth != 255
    hits = np.bincount(label[kept], TIMES[kept] * (label == truth)[kept], K)
    return hits, np.bincount(label[kept], TIMES[kept], K)


def rebuilt(start: tuple[np.ndarray, np.ndarray], changes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """hits, predicted (K,) after changes (K,4) of lost and gained hits and false positives."""
    lose_hit, lose_false, gain_hit, gain_false = changes.T
    return start[0] + gain_hit - lose_hit, start[1] + gain_hit + gain_false - lose_hit - lose_false


def by_events(events: Events, upto: float) -> np.ndarray:
    changes = np.zeros((K, 4), np.int64)
    for u, old, new, truth, weight in zip(*events.columns, strict=True):
        if u <= upto:
            changes[old, 0 if truth == old else 1] += weight
            changes[new, 2 if truth == new else 3] += weight
    return changes


def assert_line(hist: Counts, events: Events, span: WeightInterval, start: tuple, expected: list) -> None:
    """Histogram and events both lead to the counts `expected` at the ends of the bins."""
    low, high = (float(u) for u in span.ends_u)
    for b, counts in enumerate(expected):
        for changes in (hist[: b + 1].sum(0), hist[0] + by_events(events, low + (high - low) * b / BINS)):
            for found, right in zip(rebuilt(start, changes), counts, strict=True):
                assert np.abs(found - right).max() <= 4  # a threshold on an edge may fall to either side: one pixel
    assert int(hist[1:, :, 2:].sum()) == int(events.weight.sum())


def edges(span: WeightInterval) -> np.ndarray:
    low, high = (float(u) for u in span.ends_u)
    u = low + (high - low) * np.arange(BINS + 1) / BINS
    weights: np.ndarray = u / (1 - u)
    return weights


@pytest.mark.parametrize("k", range(K))
@pytest.mark.parametrize("m", range(M))
def test_the_line_of_one_weight(m: int, k: int) -> None:
    q, weights, truth = problem(10 * m + k)
    span, pixels = WeightInterval(0.1, 8.0, BINS), Pixels(q, truth, STRATA)
    pixels.restart(weights)
    low, high = weights[:, k].copy(), weights[:, k].copy()
    low[m], high[m] = span.low, span.high
    none = np.zeros(M, np.float32)
    held = pixels.open(k, WeightBounds(low, high, none, none))
    hist, expected = pixels.histogram(m, weights[:, k].copy(), span), []
    for x in edges(span):
        trial = weights.copy()
        trial[m, k] = x
        expected.append(counts_at(q, trial, truth))
    hits, predicted = counts_at(q, weights, truth)  # and then without what class k holds: histograms begin there
    hits[k], predicted[k] = hits[k] - held[:, 1].sum(), predicted[k] - held.sum()
    start = hits + held[:, 0], predicted + held.sum(1)
    assert_line(hist, Events.merged([pixels.events(EVERY)]), span, start, expected)


@pytest.mark.parametrize("seed", range(4))
def test_the_line_of_a_member(seed: int) -> None:
    q, weights, truth = problem(seed)
    base, step = weights.copy(), np.zeros_like(weights)
    base[seed % M], step[seed % M] = 0, weights[seed % M]
    span, pixels = WeightInterval(0.0, 6.0, BINS), Pixels(q, truth, STRATA)
    hist = pixels.line_histogram(base, step, span)
    expected = [counts_at(q, base + x * step, truth) for x in edges(span)]
    nothing = np.zeros(K), np.zeros(K)
    assert_line(hist, Events.merged([pixels.line_events(EVERY)]), span, nothing, expected)


def test_flagged_bins_give_their_own_events_alone() -> None:
    q, weights, truth = problem(0)
    span, pixels = WeightInterval(0.0, 6.0, BINS), Pixels(q, truth, STRATA)
    base, step = weights.copy(), np.zeros_like(weights)
    base[1], step[1] = 0, 1
    hist = pixels.line_histogram(base, step, span)
    flagged = np.arange(BINS + 1) % 5 == 3
    some, every = (Events.merged([pixels.line_events(flags)]) for flags in (flagged, EVERY))
    low, _ = span.ends_u
    rows = np.minimum(((every.u - low) * span.scale).astype(np.int32) + 1, BINS)
    for found, expected in zip(some.columns, every.where(flagged[rows]).columns, strict=True):
        np.testing.assert_array_equal(found, expected)
    assert int(hist[flagged][:, :, 2:].sum()) == int(some.weight.sum())
