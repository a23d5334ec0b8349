"""The fitting sample against the full count."""

from __future__ import annotations

import numpy as np
import pytest

from analysis.ensembling.pixel_sampling import (
    COARSE_PIXELS,
    NEAR_PX,
    Densities,
    FittingSample,
    densities_within,
    near_boundary,
    pixels_that_fit,
    sample_pixels,
)
from analysis.voting.view_config import ViewConfig
from analysis.weight_search.strata import Strata


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


def sample_of(num_pixels: int) -> FittingSample:
    """Two members, the first with two views; three images; a third of the pixels near boundaries."""
    rng = np.random.default_rng(0)
    q = rng.uniform(0.1, 1, (3, 4, num_pixels)).astype(np.float32)
    truth, image = rng.integers(0, 4, num_pixels).astype(np.uint8), rng.integers(0, 3, num_pixels).astype(np.int32)
    strata = Strata((num_pixels // 3, num_pixels), (1, 4))
    return FittingSample((("u", "v"), ("u",)), (q[:2], q[2:]), truth, image, strata)


def test_coarse_pixels_are_every_nth_of_the_sample_and_no_copy() -> None:
    sample, step = sample_of(3 * COARSE_PIXELS + 5), 3
    coarse = sample.coarse
    assert COARSE_PIXELS <= coarse.truth.size < 2 * COARSE_PIXELS
    np.testing.assert_array_equal(coarse.truth, sample.truth[::step])
    np.testing.assert_array_equal(coarse.image, sample.image[::step])
    np.testing.assert_array_equal(coarse.times, sample.times[::step])
    for few, whole in zip(coarse.by_view, sample.by_view, strict=True):
        np.testing.assert_array_equal(few, whole[:, :, ::step])
        assert np.shares_memory(few, whole)


def test_images_that_are_not_kept_have_no_label_in_what_is_seen() -> None:
    sample, kept = sample_of(500), np.array([True, False, True])
    pixels = sample.see(ViewConfig((("v",), ()), (1.0, 1.0)), kept)
    np.testing.assert_array_equal(pixels.truth, np.where(sample.image == 1, 255, sample.truth))
    np.testing.assert_array_equal(pixels.q, sample.by_view[0][1:])
    assert pixels.num_labelled() == (sample.image != 1).sum()
