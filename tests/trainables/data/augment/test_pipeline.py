from __future__ import annotations

import os
from collections import Counter

import albumentations as A
import cv2
import numpy as np
import pytest

from trainables.data.augment.crop import PAD_RGB, Pixels
from trainables.data.augment.pipeline import reseed, train_transform, view_size
from trainables.data.index import IGNORE_INDEX
from trainables.recipe.augmentation import Augmentation

PALETTE = np.array([(250, 10, 10), (10, 250, 10), (10, 10, 250), (250, 250, 10), (10, 250, 250)], np.uint8)


def _label(height: int, width: int, seed: int) -> Pixels:
    """Random blocks of 16 px with five classes."""
    blocks = np.random.default_rng(seed).integers(0, 5, (height // 16 + 1, width // 16 + 1), dtype=np.uint8)
    return np.ascontiguousarray(np.kron(blocks, np.ones((16, 16), np.uint8))[:height, :width])


@pytest.mark.parametrize("shape", [(96, 128), (50, 70), (200, 150), (64, 64)])
@pytest.mark.parametrize("short_px", [None, 80])
def test_image_painted_by_its_label_still_is_afterwards(shape: tuple[int, int], short_px: int | None) -> None:
    aug = Augmentation(short_px=short_px, crop_px=64, scale_min=0.5, scale_max=2.0, vflip_p=0.5, colour_p=0.0)
    pipeline = train_transform(aug, seed=0)
    label = _label(*shape, seed=1)
    for sample in range(20):
        reseed(pipeline, 0, sample)
        out = pipeline(image=PALETTE[label], mask=label)
        image, mask = out["image"].astype(int), out["mask"]
        assert image.shape == (64, 64, 3)
        assert mask.shape == (64, 64)
        known = mask != IGNORE_INDEX
        nearest = np.abs(image[..., None, :] - PALETTE.astype(int)).sum(-1).argmin(-1)
        # where a class fills its 3 x 3 neighbourhood, no interpolation mixes colours
        inside = known & (cv2.erode(mask, np.ones((3, 3))) == cv2.dilate(mask, np.ones((3, 3))))
        assert inside.mean() > 0.05
        assert np.array_equal(nearest[inside], mask[inside])
        assert np.all(image[~known] == PAD_RGB)


def test_window_holds_the_pixels_of_the_whole_image_resized() -> None:
    height, width = 120, 160
    ramp = np.dstack([np.tile(np.arange(width), (height, 1)), np.tile(np.arange(height)[:, None], (1, width))])
    image = np.dstack([ramp, np.zeros((height, width))]).astype(np.uint8)
    pipeline = train_transform(Augmentation(crop_px=64, scale_min=0.6, scale_max=1.9, hflip_p=0, colour_p=0), seed=0)
    for sample in range(20):
        reseed(pipeline, 5, sample)
        out = pipeline(image=image, mask=np.zeros((height, width), np.uint8))["image"]
        drawn = pipeline.transforms[0].get_applied_params()
        source = (np.arange(64) + 0.5) * drawn["window_px"] / 64 - 0.5  # where a pixel of a resized image comes from
        inner = slice(2, -2)
        off_x = out[0, inner, 0] - source[inner] - drawn["left"]
        off_y = out[inner, 0, 1] - source[inner] - drawn["top"]
        for off in (off_x, off_y):
            assert np.abs(off).max() < 0.75  # OpenCV's fixed-point weights, and rounding
            assert abs(off.mean()) < 0.2  # half a pixel of misalignment would show here


def test_scales_cover_the_range_that_was_asked_for() -> None:
    aug = Augmentation(short_px=128, crop_px=64, scale_min=0.5, scale_max=2.0)
    pipeline, image = train_transform(aug, seed=0), np.zeros((256, 300, 3), np.uint8)
    windows = []
    for sample in range(300):
        reseed(pipeline, sample)
        pipeline(image=image, mask=image[..., 0])
        windows.append(pipeline.transforms[0].get_applied_params()["window_px"])
    scales = 64 / np.array(windows) / 0.5  # the base resize is 128 / 256
    assert scales.min() == pytest.approx(0.5, abs=0.03)
    assert scales.max() == pytest.approx(2.0, abs=0.05)
    assert scales.mean() == pytest.approx(1.25, abs=0.1)


def test_images_smaller_than_the_crop_are_kept_whole_and_padding_is_ignored() -> None:
    aug = Augmentation(crop_px=64, scale_min=1.0, scale_max=1.0, colour_p=0)
    pipeline = train_transform(aug, seed=0)
    image, label = np.full((40, 30, 3), 200, np.uint8), np.full((40, 30), 3, np.uint8)
    corners = set()
    for sample in range(30):
        reseed(pipeline, sample)
        out = pipeline(image=image, mask=label)
        assert (out["mask"] == 3).sum() == 40 * 30
        assert np.array_equal((out["image"] == 200).all(-1), out["mask"] == 3)
        assert np.all(out["image"][out["mask"] == IGNORE_INDEX] == PAD_RGB)
        corners.add(tuple(np.argwhere(out["mask"] == 3)[0].tolist()))
    assert len(corners) > 20


def test_ignored_pixels_stay_ignored() -> None:
    pipeline = train_transform(Augmentation(crop_px=32), seed=0)
    label = np.full((90, 90), IGNORE_INDEX, np.uint8)
    for sample in range(10):
        reseed(pipeline, sample)
        assert np.all(pipeline(image=np.zeros((90, 90, 3), np.uint8), mask=label)["mask"] == IGNORE_INDEX)


def test_flips_are_independent_of_each_other() -> None:
    # Compose.set_random_seed would give both flips the same numbers, and two of the four outcomes
    aug = Augmentation(crop_px=32, scale_min=1, scale_max=1, hflip_p=0.5, vflip_p=0.5, colour_p=0)
    pipeline, label = train_transform(aug, seed=0), np.zeros((32, 32), np.uint8)
    label[0, 0] = 1
    corners: Counter[tuple[int, ...]] = Counter()
    for sample in range(200):
        reseed(pipeline, sample)
        out = pipeline(image=np.zeros((32, 32, 3), np.uint8), mask=label)["mask"]
        corners[tuple(np.argwhere(out == 1)[0].tolist())] += 1
    assert sorted(corners) == [(0, 0), (0, 31), (31, 0), (31, 31)]
    assert min(corners.values()) > 25


def test_equal_words_give_equal_samples() -> None:
    aug = Augmentation(crop_px=64, colour_p=1.0)
    image = np.random.default_rng(0).integers(0, 255, (100, 100, 3), dtype=np.uint8)
    first, second = train_transform(aug, seed=0), train_transform(aug, seed=9)
    first(image=image, mask=image[..., 0])  # what came before must not matter
    for words in ((0, 1, 2), (0, 1, 3)):
        reseed(first, *words)
        reseed(second, *words)
        a, b = (one(image=image, mask=image[..., 0]) for one in (first, second))
        assert np.array_equal(a["image"], b["image"])
        assert np.array_equal(a["mask"], b["mask"])
    reseed(second, 0, 1, 2)
    assert not np.array_equal(a["image"], second(image=image, mask=image[..., 0])["image"])


def test_colours_change_the_image_alone() -> None:
    aug = Augmentation(crop_px=64, scale_min=1, scale_max=1, hflip_p=0, colour_p=1.0)
    pipeline, label = train_transform(aug, seed=0), _label(64, 64, seed=2)
    out = pipeline(image=PALETTE[label], mask=label)
    assert np.array_equal(out["mask"], label)
    assert not np.array_equal(out["image"], PALETTE[label])


def test_the_pipeline_can_be_written_down_and_read_back() -> None:
    pipeline = train_transform(Augmentation(crop_px=64, vflip_p=0.3), seed=0)
    copy = A.from_dict(A.to_dict(pipeline))
    image = np.random.default_rng(0).integers(0, 255, (90, 110, 3), dtype=np.uint8)
    reseed(pipeline, 4)
    reseed(copy, 4)
    one, two = (each(image=image, mask=image[..., 0])["image"] for each in (pipeline, copy))
    assert np.array_equal(one, two)


def test_importing_asks_no_network_for_a_newer_version() -> None:
    assert os.environ["NO_ALBUMENTATIONS_UPDATE"] == "1"


@pytest.mark.parametrize(
    ("size", "short_px", "scale", "expected"),
    [
        ((512, 512), None, 1.0, (512, 512)),
        ((360, 480), None, 1.0, (352, 480)),  # 360 / 32 = 11.25
        ((360, 480), 192, 1.0, (192, 256)),
        ((480, 360), 192, 1.5, (384, 288)),
        ((360, 480), 192, 0.75, (160, 192)),  # 144 is half-way: up
        ((40, 2000), None, 0.25, (32, 512)),  # never less than one cell of the coarsest feature
    ],
)
def test_views_are_the_nearest_multiples_of_the_stride(
    size: tuple[int, int], short_px: int | None, scale: float, expected: tuple[int, int]
) -> None:
    assert view_size(*size, short_px, scale) == expected
