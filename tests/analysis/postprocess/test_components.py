"""Regions against scipy's components, class by class."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from analysis.postprocess.components import Regions, adjacent, connected


def patchwork(seed: int) -> np.ndarray:
    """Few classes, so that spirals, diagonals and joins of joins come."""
    rng = np.random.default_rng(seed)
    label = rng.integers(0, 3, rng.integers(1, 40, 2))
    return label.repeat(rng.integers(1, 3), 0).astype(np.uint8)


@pytest.mark.parametrize("diagonal", [False, True])
@pytest.mark.parametrize("seed", range(8))
def test_regions_are_scipys_components_of_every_class(seed: int, diagonal: bool) -> None:
    label = patchwork(seed)
    regions = Regions(*connected(label, diagonal))
    found = 0
    for k in range(3):
        ids, num = ndimage.label(label == k, np.ones((3, 3)) if diagonal else None)
        pairs = {(int(theirs), int(ours)) for theirs, ours in zip(ids[ids > 0], regions.ids[ids > 0], strict=True)}
        assert len(pairs) == num == len({ours for _, ours in pairs})
        for theirs, ours in pairs:
            mask = ids == theirs
            rim = mask[0].any() or mask[-1].any() or mask[:, 0].any() or mask[:, -1].any()
            found += 1
            assert (regions.classes[ours], regions.areas_px[ours], regions.rim[ours]) == (k, mask.sum(), rim)
    assert found == len(regions.classes)


def test_pairs_are_all_regions_that_share_an_edge() -> None:
    ids = connected(patchwork(3), False)[0]
    edges = [np.stack([ids[1:], ids[:-1]]).reshape(2, -1), np.stack([ids[:, 1:], ids[:, :-1]]).reshape(2, -1)]
    touching = {frozenset(pair) for pair in np.concatenate(edges, axis=1).T.tolist()}
    assert {frozenset(pair) for pair in adjacent(ids).tolist()} == {pair for pair in touching if len(pair) == 2}
