"""The fitting sample against the full count."""

from __future__ import annotations

import numpy as np
import pytest

from analysis.sampling import sample_pixels, sample_share


def test_a_sample_has_no_ignored_pixel_and_depends_on_the_name_alone() -> None:
    label = np.random.default_rng(0).integers(0, 3, (40, 50)).astype(np.uint8)
    label[label == 2] = 255
    flat = sample_pixels(label, 0.25, 3, "a.jpg")
    assert (label.reshape(-1)[flat] != 255).all()
    assert len(np.unique(flat)) == len(flat) == pytest.approx(0.25 * (label != 255).sum(), abs=1)
    np.testing.assert_array_equal(flat, sample_pixels(label, 0.25, 3, "a.jpg"))
    assert not np.array_equal(flat, sample_pixels(label, 0.25, 3, "b.jpg"))


def test_the_sample_estimates_every_count_without_bias() -> None:
    rng = np.random.default_rng(1)
    labels = [rng.choice(4, (n, 30), p=[0.7, 0.2, 0.08, 0.02]).astype(np.uint8) for n in (20, 60)]  # ragged sizes
    full = np.bincount(np.concatenate([label.ravel() for label in labels]), minlength=4)
    share, counts = 0.1, []
    for seed in range(40):
        drawn = [label.ravel()[sample_pixels(label, share, seed, f"{i}")] for i, label in enumerate(labels)]
        counts.append(np.bincount(np.concatenate(drawn), minlength=4) / share)
    error = np.std(counts, axis=0) / np.sqrt(len(counts))
    assert (np.abs(np.mean(counts, axis=0) - full) < 4 * error + 1e-9).all()


def test_the_share_keeps_the_sample_within_its_bytes() -> None:
    share = sample_share(2**20, 10**6, 11, [4, 2])
    assert share * 10**6 * 11 * 4 * (4 + 2 + 2) < 2**20
    assert sample_share(2**30, 10, 11, [1]) == 1.0
