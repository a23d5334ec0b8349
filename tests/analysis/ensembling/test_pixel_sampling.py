"""The fitting sample against the full count."""

from __future__ import annotations

import numpy as np
import pytest

from analysis.ensembling.pixel_sampling import (
    NEAR_PX,
    Densities,
    densities_within,
    near_boundary,
    pixels_that_fit,
    sample_pixels,
)


def blobs(seed: int, height: int, width: int, num_classes: int = 4) -> np.ndarray:
    """A label map of patches, some of them ignored."""
    rng = np.random.default_rng(seed)
    patches = rng.choice([*range(num_classes), 255], (height // 20, width // 20), p=[0.5, 0.2, 0.15, 0.05, 0.1])
    label: np.ndarray = patches.astype(np.uint8).repeat(20, 0).repeat(20, 1)
    return label


def test_near_a_boundary_is_where_another_label_lies_within_reach() -> None:
    label = np.zeros((30, 40), np.uint8)
    label[:, 20:] = 1
    expected = np.zeros_like(label, bool)
    expected[:, 20 - NEAR_PX : 20 + NEAR_PX] = True
    np.testing.assert_array_equal(near_boundary(label), expected)


def test_a_sample_has_no_ignored_pixel_and_depends_on_the_name_alone() -> None:
    label, near = blobs(0, 80, 100), near_boundary(blobs(0, 80, 100)).ravel()
    densities = Densities(0.4, 4)
    drawn = sample_pixels(label, densities, 3, "a.jpg")
    assert near[drawn[0]].all()
    assert not near[drawn[1]].any()
    for flat, share, of in zip(drawn, (0.4, 0.1), (near, ~near), strict=True):
        assert (label.ravel()[flat] != 255).all()
        assert len(np.unique(flat)) == len(flat) == pytest.approx(share * (of & (label.ravel() != 255)).sum(), abs=1)
    for flat, again, other in zip(
        drawn, sample_pixels(label, densities, 3, "a.jpg"), sample_pixels(label, densities, 3, "b.jpg"), strict=True
    ):
        np.testing.assert_array_equal(flat, again)
        assert not np.array_equal(flat, other)


def test_the_sample_estimates_every_confusion_count_without_bias() -> None:
    labels = [blobs(i, height, 100) for i, height in enumerate((60, 120))]  # ragged sizes
    rng = np.random.default_rng(1)
    predicted = [
        np.where(rng.random(label.shape) < 0.3, rng.integers(0, 4, label.shape), label % 4) for label in labels
    ]

    def counts(true: np.ndarray, pred: np.ndarray) -> np.ndarray:
        return np.bincount(4 * true.astype(int) + pred, minlength=16)

    known = [label.ravel() != 255 for label in labels]
    full = sum(counts(t.ravel()[k], p.ravel()[k]) for t, p, k in zip(labels, predicted, known, strict=True))
    densities, estimates = Densities(0.2, 4), []
    for seed in range(20):
        total = np.zeros(16)
        for i, (label, pred) in enumerate(zip(labels, predicted, strict=True)):
            for flat, weight in zip(sample_pixels(label, densities, seed, f"{i}"), (1, 4), strict=True):
                total += weight * counts(label.ravel()[flat], pred.ravel()[flat]) / densities.near_share
        estimates.append(total)
    error = np.std(estimates, axis=0, ddof=1) / np.sqrt(20)
    assert (full > 0).all()
    assert (np.abs(np.mean(estimates, axis=0) - full) < 4 * error).all()


def test_the_densities_keep_the_sample_within_what_fits() -> None:
    for num_fit in (100, 1000, 2500, 4000, 9999):
        densities = densities_within(num_fit, 2000, 10_000)
        drawn = densities.near_share * (2000 + 8000 / densities.interior_weight)
        assert drawn == pytest.approx(num_fit)
        assert densities.near_share <= 1
    assert densities_within(1000, 2000, 10_000).interior_weight == 4
    assert densities_within(10_000, 2000, 10_000) == Densities(1.0, 1)
    assert 4 * 11 * (6 + 2) * pixels_that_fit(2**20, 11, [4, 2]) < 2**20
