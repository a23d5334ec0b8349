"""Where the pixels of a crop come from, against the label, which moves with the same draws."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from trainables.data.augment.pipeline import reseed, train_transform
from trainables.data.augment.source_map import FIRST_PIXEL, follow, source_map, swapped
from trainables.data.flip_pairs import swap_table
from trainables.data.index import IGNORE_INDEX
from trainables.models.resize import resize
from trainables.recipe.augmentation import Augmentation

SIZE = (70, 90)
ORDER = np.arange(5)
MOVES: dict[str, dict[str, Any]] = {
    "crop": {"scale_min": 0.4, "scale_max": 1.6},
    "flips": {"hflip_p": 0.5, "vflip_p": 0.5},
    "matrix": {"geometric": {"Affine": {"p": 1.0}, "Perspective": {"p": 0.5}}},
    "field": {"elastic": {"ElasticTransform": {"p": 1.0}, "PiecewiseAffine": {"p": 0.5}}},
    "holes": {"cutout": {"CoarseDropout": {"p": 1.0}, "GridDropout": {"p": 0.5, "cell_px": 16}}},
    "policy": {"policy": {"name": "trivial_augment"}},
}


@pytest.mark.parametrize("pairs", [(), ((1, 3),)])
@pytest.mark.parametrize("moves", MOVES.values(), ids=MOVES)
def test_every_pixel_has_the_label_of_the_pixel_it_comes_from(
    moves: dict[str, Any], pairs: tuple[tuple[int, int], ...]
) -> None:
    aug = Augmentation(crop_px=64, short_px=60, **{"hflip_p": 0.5, "colour_p": 0.0, "scale_max": 1.2} | moves)
    rng = np.random.default_rng(0)
    image = rng.integers(0, 255, (*SIZE, 3), dtype=np.uint8)
    label = rng.integers(0, 5, SIZE, dtype=np.uint8)
    plain, mapping = train_transform(aug, 0, pairs), train_transform(aug, 0, pairs, maps_sources=True)
    nowhere = 0
    for draw in range(8):
        reseed(plain, draw)
        reseed(mapping, draw)
        found = mapping(image=image, mask=label, where=source_map(*SIZE))
        alone = plain(image=image, mask=label)
        np.testing.assert_array_equal(found["mask"], alone["mask"])  # the draws are the same
        np.testing.assert_array_equal(found["image"], alone["image"])
        where = found["where"]
        numbers = np.abs(where) - FIRST_PIXEL
        source = label.ravel()[np.maximum(numbers, 0)]
        source = np.where(where < 0, swap_table(pairs)[source], source)
        agree = np.where(numbers < 0, IGNORE_INDEX, source) == found["mask"]
        assert agree.mean() > 0.998  # OpenCV breaks ties of its nearest neighbour otherwise for wider types
        nowhere += int((numbers < 0).sum())
        assert (where < 0).any() <= bool(pairs)
    assert nowhere  # padding, or holes


def test_values_follow_as_the_projects_own_resize_gives_them() -> None:
    grid = np.random.default_rng(0).normal(size=(5, 9, 11)).astype(np.float32)
    expected = resize(torch.from_numpy(grid)[None], SIZE)[0].numpy()
    np.testing.assert_allclose(follow(grid, source_map(*SIZE), SIZE, ORDER), expected, atol=1e-5)


def test_exchanged_pixels_take_the_other_classs_value_and_unknown_ones_none() -> None:
    grid = np.arange(5, dtype=np.float32)[:, None, None]
    where = np.array([[FIRST_PIXEL, int(swapped(source_map(1, 1))[0, 0]), IGNORE_INDEX, -IGNORE_INDEX]], np.int32)
    found = follow(grid, where, (1, 1), swap_table(((1, 3),))[:5].astype(np.int64))
    np.testing.assert_array_equal(found[:, 0, :2].T, [[0, 1, 2, 3, 4], [0, 3, 2, 1, 4]])
    assert np.isnan(found[:, 0, 2:]).all()


def test_a_recipe_that_mixes_images_is_refused() -> None:
    aug = Augmentation(crop_px=64, cutmix={"p": 0.5})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="soft labels must be of one image's pixels"):
        train_transform(aug, 0, maps_sources=True)
