"""Many ensembles at once against one at a time."""

from __future__ import annotations

import numpy as np

from analysis.ensembling.bootstrap import resample
from analysis.ensembling.crossfit import Images
from analysis.ensembling.path_scores import Tally, tally
from analysis.ensembling.pixel_sampling import FittingSample
from analysis.weight_search.sample_confusion import sample_confusion
from analysis.weight_search.strata import Strata
from trainables.metrics import miou

N, K, P = 12, 4, 3000
RNG = np.random.default_rng(0)
IMAGE = np.sort(RNG.integers(0, N, P)).astype(np.int32)
TRUTH = RNG.integers(0, K, P).astype(np.uint8)
STRATA = Strata((2000, P), (1, 4))
SAMPLE = FittingSample(
    (("u", "v"), ("u",)), tuple(RNG.random((num, K, P)).astype(np.float32) for num in (2, 1)), TRUTH, IMAGE, STRATA
)
SHARES = np.array([[1, 0, 0], [0.5, 0.5, 2]], np.float32)  # (S,R)


def counts() -> np.ndarray:
    """(N,S,K,K), image by image and ensemble by ensemble."""
    q = np.concatenate(SAMPLE.by_view)
    out = np.zeros((N, len(SHARES), K, K), np.int64)
    for i in range(N):
        here = np.flatnonzero(i == IMAGE)
        for s, shares in enumerate(SHARES):
            weights = np.repeat(shares[:, None], K, 1)
            out[i, s] = sample_confusion(np.ascontiguousarray(q[:, :, here]), weights, TRUTH[here], STRATA.of(here))
    return out


def test_hits_and_predictions_are_those_of_the_confusions() -> None:
    found = tally(SAMPLE, SHARES, np.ones(N, bool))
    expected = counts()
    np.testing.assert_array_equal(found.hits, np.diagonal(expected, axis1=2, axis2=3))
    np.testing.assert_array_equal(found.predicted, expected.sum(2))
    np.testing.assert_array_equal(found.true, expected[:, 0].sum(2))
    np.testing.assert_allclose(found.miou(), miou(expected.sum(0)))


def test_parts_add_up_and_resamples_are_those_of_the_confusions() -> None:
    found = Tally.sum([tally(SAMPLE, SHARES, np.arange(N) % 3 == part) for part in range(3)])
    kept = np.arange(N) != 5
    draws = Images([str(i) for i in range(N)], False, 0, 40).draws(kept)
    one, expected = found.resampled(1, kept, draws), resample(counts()[kept][:, 1], draws)
    assert one.miou == expected.miou
    np.testing.assert_allclose(one.mious, expected.mious)
