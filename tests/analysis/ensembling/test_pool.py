"""A sample in shares against the same sample whole."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any

import numpy as np
import pytest

from analysis.ensembling import pool
from analysis.ensembling.pixel_sampling import FittingSample
from analysis.ensembling.pool import JoinedPixels, Pool, Share
from analysis.voting.executor import Held, HeldHere, Here
from analysis.voting.view_config import Look
from analysis.weight_search.coordinate_search import Free, fit_pixels
from analysis.weight_search.greedy_selection import best_member, select_members
from analysis.weight_search.pixels import Part
from analysis.weight_search.strata import Strata, firsts, join

NAMES, K, N = (("u", "v"), ("u",), ("u",)), 4, 9
SIZES = np.random.default_rng(0).integers(50, 300, (N, 2))  # of each image's pixels near boundaries, and others


def sample_of(images: range) -> FittingSample:
    """Each image's own pixels, those near boundaries first."""
    drawn: list[list[Any]] = [[], []]
    for i in images:
        rng = np.random.default_rng(i)
        for stratum, size in enumerate(SIZES[i]):
            truth = rng.integers(0, K, size).astype(np.uint8)
            strength = rng.uniform(0, 2, (4, K, 1)) * (np.arange(K)[:, None] == truth)
            q = np.exp(strength + rng.normal(size=(4, K, size)))
            image = np.full(size, i - images.start, np.int32)
            drawn[stratum].append(((q / q.sum(1, keepdims=True)).astype(np.float32), truth, image))
    q, truth, image = (np.concatenate([one[f] for one in drawn[0] + drawn[1]], -1) for f in range(3))
    ends = SIZES[images].sum(0).cumsum()
    return FittingSample(NAMES, (q[:2], q[2:3], q[3:]), truth, image, Strata((int(ends[0]), int(ends[1])), (1, 4)))


class Plan:
    """What `Pool` asks of a `Gathering`; ids are numbers."""

    class drawing:
        names = NAMES

        class header:
            classes = tuple("abcd")

        stores = (type("Store", (), {"header": header}),)

    def __call__(self, ids: list[str], spread: Any) -> FittingSample:
        return sample_of(range(int(ids[0]), int(ids[-1]) + 1))


def pool_of(num_shares: int) -> Pool:
    plan: Any = Plan()
    return Pool(plan, [str(i) for i in range(N)], Here(num_shares=num_shares))


LOOK, KEPT = Look((("v", "u"), ("u",), ()), (1.0, 1.5, 1.0)), np.arange(N) % 3 != 1


@pytest.mark.parametrize("num_shares", [1, 2, 5])
def test_the_coarse_pixels_are_those_at_the_same_places(monkeypatch: pytest.MonkeyPatch, num_shares: int) -> None:
    monkeypatch.setattr(pool, "COARSE_PIXELS", 300)
    whole, step = sample_of(range(N)), int(SIZES.sum()) // 300
    with pool_of(num_shares) as parted:
        found = parted.coarse
    for field in fields(FittingSample):
        mine, other = getattr(found, field.name), getattr(whole, field.name)
        if field.name == "by_view":
            assert all(np.array_equal(a, b[:, :, ::step]) for a, b in zip(mine, other, strict=True))
        elif field.name in ("truth", "image"):
            np.testing.assert_array_equal(mine, other[::step])
    np.testing.assert_array_equal(found.times, whole.times[::step])


@pytest.mark.parametrize("num_shares", [2, 5])
def test_tallies_are_those_of_the_whole(num_shares: int) -> None:
    shares = np.random.default_rng(1).uniform(0, 1, (6, 4)).astype(np.float32)
    with pool_of(1) as whole, pool_of(num_shares) as parted:
        for found, expected in zip(*(vars(p.tally(shares, KEPT)).values() for p in (parted, whole)), strict=True):
            np.testing.assert_array_equal(found, expected)
            assert not found[~KEPT].any()


@pytest.mark.parametrize("num_shares", [1, 2, 5])
@pytest.mark.parametrize("free", ["class", "member", "member_class"])
def test_what_is_fitted_is_fitted_to_the_whole(num_shares: int, free: Free) -> None:
    sample = sample_of(range(N))
    truth = np.where(KEPT[sample.image], sample.truth, np.uint8(255))
    part = Part(sample.probabilities(LOOK), truth, sample.strata)
    starts, coarse = [np.ones((2, K), np.float32)], 40  # so few that an eighth of the pixels is climbed first
    expected = fit_pixels(part, starts, free, max_sweeps=2, coarse_pixels=coarse)
    with pool_of(num_shares) as parted, parted.see(LOOK, KEPT) as pixels:
        found = fit_pixels(pixels, starts, free, max_sweeps=2, coarse_pixels=coarse)
        np.testing.assert_array_equal(select_members(pixels), select_members(part))
        assert best_member(pixels) == best_member(part)
    np.testing.assert_array_equal(found.weights, expected.weights)
    np.testing.assert_array_equal(found.confusion, expected.confusion)
    assert found.trace == expected.trace


@pytest.mark.parametrize("seed", range(8))
def test_shares_of_few_pixels_or_none_are_thinned_as_the_whole(seed: int) -> None:
    rng = np.random.default_rng(seed)
    sizes = rng.integers(0, 5, (6, 2))  # (shares,S)
    whole = np.split(np.arange(sizes.sum()), np.cumsum(sizes.T)[:-1])  # stratum by stratum, share by share
    for step in range(1, 12):
        found = []
        for p, begins in enumerate(firsts(sizes, step)):
            values, ends = np.concatenate([whole[p], whole[6 + p]]), tuple(np.cumsum(sizes[p]).tolist())
            q = np.repeat(values.astype(np.float32)[None, None], K, 1)
            share = FittingSample(
                (("u",),), (q,), np.zeros(values.size, np.uint8), values.astype(np.int32), Strata(ends, (1, 4))
            )
            found.append(share.some(step, begins))
        joined = join([few.image for few in found], [few.strata for few in found])
        np.testing.assert_array_equal(joined, np.arange(sizes.sum())[::step])
        np.testing.assert_array_equal(join([few.by_view[0][0, 0] for few in found], [f.strata for f in found]), joined)


def test_shares_of_pixels_that_all_count_once_keep_their_order() -> None:
    """Two strata of one weight: where boundaries run is still what comes first."""
    samples = [sample_of(range(4)), sample_of(range(4, N))]
    shares = [FittingSample(NAMES, s.by_view, s.truth, s.image, Strata(s.strata.ends, (1, 1))) for s in samples]
    places = HeldHere([Held(Share(share, 5)) for share in shares])
    places.each("push", [(0, "see", LOOK, np.ones(5, bool))] * 2)
    q, truth, strata = JoinedPixels(places, 1, (2, K)).every(7)
    whole = sample_of(range(N))
    np.testing.assert_array_equal(truth, whole.truth[::7])
    np.testing.assert_array_equal(q, whole.probabilities(LOOK)[:, :, ::7])
    assert (strata.per_pixel() == 1).all()


def test_the_ensemble_is_that_of_one_share_however_the_sample_is_parted(judged_with: Callable[..., bytes]) -> None:
    whole = judged_with(Here())
    assert judged_with(Here(num_shares=2)) == whole
    assert judged_with(Here(num_shares=5)) == whole
