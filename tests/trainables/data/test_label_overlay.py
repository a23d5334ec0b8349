"""Labels that stand in for those of a data set, in the cache that trials read."""

from __future__ import annotations

import pickle
from pathlib import Path

import cv2
import numpy as np
import pytest

from trainables.data.cache import Cache
from trainables.data.card import read_card
from trainables.data.label_overlay import LabelOverlay
from trainables.data.reader import read
from trainables.data.synthetic.dataset import write_synthetic


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    root = tmp_path_factory.mktemp("overlay")
    return Cache.open(read(read_card(write_synthetic(root / "d", num_images=18, image_px=64, seed=0))), root / "cache")


def test_labels_are_the_files_the_rest_the_data_sets(cache: Cache, tmp_path: Path) -> None:
    first, second, third = cache.index.ids("train")[:3]
    label = np.random.default_rng(0).integers(0, 3, cache.size(first), dtype=np.uint8)
    label[0, 0] = 255
    cv2.imwrite(str(tmp_path / "0.png"), label)
    found = LabelOverlay(cache, {first: tmp_path / "0.png", second: None})
    again: LabelOverlay = pickle.loads(pickle.dumps(found))  # noqa: S301  (made in this line, as trials send it)
    for one in (found, again):
        np.testing.assert_array_equal(one.label(first), label)
        assert (one.label(second) == 255).all()
        np.testing.assert_array_equal(one.label(third), cache.label(third))
        pixels = one.class_pixels_by_image([third, first, second])
        np.testing.assert_array_equal(pixels[0], cache.class_pixels([third]))
        assert pixels[1, :3].tolist() == np.bincount(label.ravel(), minlength=256)[:3].tolist()
        assert not pixels[2].any()


def test_a_label_of_another_size_is_refused(cache: Cache, tmp_path: Path) -> None:
    first = cache.index.ids("train")[0]
    cv2.imwrite(str(tmp_path / "0.png"), np.zeros((3, 4), np.uint8))
    with pytest.raises(ValueError, match=r"must be the label of .*, uint8 \(64, 64\), got uint8 \(3, 4\)"):
        LabelOverlay(cache, {first: tmp_path / "0.png"}).label(first)
    with pytest.raises(ValueError, match="got no such file"):
        LabelOverlay(cache, {first: tmp_path / "1.png"}).label(first)
