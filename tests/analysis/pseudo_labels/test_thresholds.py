"""Thresholds against a search over every confidence, pixel by pixel."""

from __future__ import annotations

import numpy as np
import pytest

from analysis.pseudo_labels.thresholds import (
    MIN_PIXELS,
    NEVER,
    NUM_BINS,
    cap_frequent,
    certain,
    count_calls,
    count_precision,
    fit_thresholds,
    predict,
)
from trainables.data.index import IGNORE_INDEX

K = 3


def image_of(seed: int, skill: float) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities (K,H,W) of a teacher that is right more often the surer it is, and the truth (H,W)."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, K, (60, 50)).astype(np.uint8)
    logits = 2.0 * rng.normal(size=(K, 60, 50))
    logits += skill * (np.arange(K)[:, None, None] == truth)
    shares = np.exp(logits) / np.exp(logits).sum(0)
    truth[rng.random(truth.shape) < 0.1] = IGNORE_INDEX
    return shares.astype(np.float32), truth


def test_thresholds_are_the_lowest_confidences_of_the_asked_precision() -> None:
    images = [image_of(seed, 2.0) for seed in range(4)]
    counts = sum(count_precision(*predict(shares), truth, K) for shares, truth in images)
    targets = (0.7, 0.9, 0.95)
    found = fit_thresholds(np.asarray(counts), targets)
    called, sure = (np.concatenate([predict(s)[part].ravel() for s, _ in images]).astype(int) for part in (0, 1))
    truth = np.concatenate([t.ravel() for _, t in images])
    for k, (one, target) in enumerate(zip(found, targets, strict=True)):
        mine = (called == k) & (truth != IGNORE_INDEX)
        for low in range(NUM_BINS):
            above = mine & (sure >= low)
            if above.sum() >= MIN_PIXELS and (truth[above] == k).mean() >= target:
                break
        assert one.least_bin == low
        assert one.precision == pytest.approx((truth[above] == k).mean())
        assert one.kept == pytest.approx(above.sum() / mine.sum())
    assert found[0].least_bin < found[1].least_bin < found[2].least_bin


def test_a_bad_teacher_is_never_sure_enough() -> None:
    shares, truth = image_of(0, 0.0)
    found = fit_thresholds(count_precision(*predict(shares), truth, K), (0.9,) * K)
    assert all((one.least_bin, one.precision, one.confidence) == (NEVER, None, None) for one in found)
    kept = certain(*predict(shares), [one.least_bin for one in found])
    assert (kept == IGNORE_INDEX).all()


def test_a_precision_of_few_pixels_is_none() -> None:
    counts = np.zeros((1, NUM_BINS, 2), np.int64)
    counts[0, -1, 1] = MIN_PIXELS - 1
    assert fit_thresholds(counts, (0.5,))[0].least_bin == NEVER
    counts[0, -1, 1] = MIN_PIXELS
    assert fit_thresholds(counts, (0.5,))[0].least_bin == 0


def test_what_is_kept_is_as_precise_as_was_measured() -> None:
    counts = np.asarray(sum(count_precision(*predict(s), t, K) for s, t in (image_of(n, 2.0) for n in range(20))))
    low = [one.least_bin for one in fit_thresholds(counts, (0.9,) * K)]
    shares, truth = image_of(99, 2.0)
    kept = certain(*predict(shares), low)
    known = (kept != IGNORE_INDEX) & (truth != IGNORE_INDEX)
    assert (kept[known] == truth[known]).mean() == pytest.approx(0.9, abs=0.05)
    assert known.mean() > 0.05


def test_a_frequent_class_keeps_its_surest_pixels_alone() -> None:
    calls = np.zeros((4, NUM_BINS), np.int64)
    calls[0, 500:] = 20  # 10,000 pixels
    calls[1, 500:] = 2
    calls[2, 500:] = 1
    raised = cap_frequent(calls, (500, 500, 500, NEVER), cap=3.0)
    assert raised[1:] == (500, 500, NEVER)
    assert calls[0, raised[0] :].sum() == 3 * 1000
    assert cap_frequent(calls, (500, 500, 500, NEVER), cap=100.0) == (500, 500, 500, NEVER)
    assert cap_frequent(calls * 0, (1, 2, 3, 4), cap=1.0) == (1, 2, 3, 4)


def test_a_class_whose_surest_bin_is_beyond_the_cap_keeps_that_bin() -> None:
    calls = np.zeros((3, NUM_BINS), np.int64)
    calls[0, 998], calls[1, 600], calls[2, 600] = 10**6, 10, 10
    assert cap_frequent(calls, (0, 0, 0), cap=2.0) == (998, 0, 0)


def test_counts_are_of_all_pixels() -> None:
    shares, truth = image_of(0, 1.0)
    labels, bins = predict(shares)
    assert count_calls(labels, bins, K).sum() == labels.size
    assert count_precision(labels, bins, truth, K).sum() == (truth != IGNORE_INDEX).sum()
    np.testing.assert_array_equal(count_precision(labels, bins, labels, K)[:, :, 1], count_calls(labels, bins, K))
