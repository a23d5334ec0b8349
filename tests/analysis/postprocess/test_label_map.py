"""Specks and holes against scipy's components and a plain, slow reading of the rules."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from analysis.postprocess.label_map import SIZES, alone, postprocess
from analysis.postprocess.options import Postprocess
from trainables.metrics import confusion

K = 4
SQUARE = np.ones((3, 3), int)


def steps(min_component: list[float], max_hole: list[float] | None = None) -> Postprocess:
    return Postprocess(min_component=tuple(min_component), max_hole=tuple(max_hole or [0.0] * len(min_component)))


def ragged(seed: int) -> np.ndarray:
    """Blobs of all sizes with specks and holes in them."""
    rng = np.random.default_rng(seed)
    height, width = rng.integers(20, 70, 2)
    smooth = ndimage.gaussian_filter(rng.normal(size=(K, height, width)), (0, 2.5, 2.5))
    label = smooth.argmax(0)
    speck = rng.random(label.shape) < 0.06
    label[speck] = rng.integers(0, K, int(speck.sum()))
    return label.astype(np.uint8)


def plain(label: np.ndarray, sizes: Postprocess) -> np.ndarray:
    """The docstring, word for word."""
    gone = np.zeros(label.shape, bool)
    for k, share in enumerate(sizes.min_component):
        ids, num = ndimage.label(label == k, SQUARE)
        for i in range(1, num + 1):
            gone |= (ids == i) & ((ids == i).sum() < share * label.size)
    out = label.copy()
    patches, num = ndimage.label(gone, SQUARE)
    for i in range(1, num + 1) if not gone.all() else ():
        edges = np.zeros(K, int)
        for y, x in np.argwhere(patches == i):
            for ny, nx in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
                if 0 <= ny < label.shape[0] and 0 <= nx < label.shape[1] and not gone[ny, nx]:
                    edges[label[ny, nx]] += 1
        out[patches == i] = edges.argmax()
    for k, share in enumerate(sizes.max_hole):
        ids, num = ndimage.label(out != k)  # 4-connected
        rim = {*ids[0], *ids[-1], *ids[:, 0], *ids[:, -1]}
        for i in set(range(1, num + 1)) - rim:
            if (ids == i).sum() < share * label.size:
                out[ids == i] = k
    return out


@pytest.mark.parametrize("seed", range(12))
def test_both_steps_are_what_a_plain_reading_with_scipys_components_gives(seed: int) -> None:
    label, rng = ragged(seed), np.random.default_rng([1, seed])
    sizes = steps(*(rng.choice([0.0, *SIZES, 0.05], K).tolist() for _ in range(2)))
    before = label.copy()
    np.testing.assert_array_equal(postprocess(label, sizes), plain(label, sizes))
    np.testing.assert_array_equal(label, before)


@pytest.mark.parametrize("seed", range(4))
def test_the_counts_of_every_option_are_those_of_doing_it(seed: int) -> None:
    label = ragged(seed).repeat(4, 0).repeat(4, 1)  # so that the sizes tell components apart
    truth = np.random.default_rng([2, seed]).integers(0, K + 1, label.shape).astype(np.uint8)
    truth[truth == K] = 255
    moved = alone(label, truth, K)
    base = confusion(truth, label, K)
    for step, k, size in np.ndindex(2, K, len(SIZES)):
        shares = [[0.0] * K, [0.0] * K]
        shares[step][k] = SIZES[size]
        change = confusion(truth, postprocess(label, steps(*shares)), K) - base
        np.testing.assert_array_equal(moved[step, k, size], [change.diagonal(), change.sum(0)])
    assert np.diff(moved, axis=2).any()


def test_a_slanted_line_is_one_component_and_encloses() -> None:
    label = np.zeros((9, 9), np.uint8)
    for y, x in ((1, 4), (2, 3), (3, 2), (4, 1), (5, 2), (6, 3), (7, 4), (6, 5), (5, 6), (4, 7), (3, 6), (2, 5)):
        label[y, x] = 1  # a diamond, its pixels touching at corners only: 12 of 81
    assert postprocess(label, steps([0.0, 12 / 81])) is label
    assert not postprocess(label, steps([0.0, 13 / 81])).any()
    filled = postprocess(label, steps([0.0, 0.0], [0.0, 0.2]))
    assert (filled == 1).sum() == 12 + 13


def test_touching_specks_take_one_class_that_stays_and_the_lowest_of_equals() -> None:
    label = np.array([[2, 2, 2, 3, 3, 3]] * 4, np.uint8)
    label[1, 2], label[1, 3] = 0, 1
    assert postprocess(label, steps([0.1, 0.1, 0.0, 0.0]))[1].tolist() == [2, 2, 2, 2, 3, 3]


def test_an_image_of_nothing_but_specks_is_left() -> None:
    label = np.arange(4, dtype=np.uint8).reshape(2, 2)
    assert postprocess(label, steps([0.5] * 4)) is label


def test_of_nested_holes_the_outermost_class_wins() -> None:
    label = np.zeros((11, 11), np.uint8)
    label[1:10, 1:10], label[3:8, 3:8], label[5, 5] = 1, 2, 0
    for outer, inner in ((1, 2), (2, 1)):
        nested = np.array([0, outer, inner], np.uint8)[label]
        assert (postprocess(nested, steps([0.0] * 3, [0.0, 0.5, 0.5]))[1:10, 1:10] == outer).all()
