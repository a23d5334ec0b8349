"""Perceptual hashes: copies of a picture are found whatever was done to them, other pictures are not."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from trainables.data.splits.near_duplicates import (
    are_near,
    cluster,
    cluster_names,
    gather,
    hash_image,
    hash_images,
    nearest,
)

Image = NDArray[np.uint8]


def scene(seed: int, side_px: int = 96) -> Image:
    coarse = np.random.default_rng(seed).integers(0, 256, (7, 7, 3), dtype=np.uint8)
    return np.asarray(cv2.resize(coarse, (side_px, side_px), interpolation=cv2.INTER_CUBIC))


def as_jpeg(image: Image, quality: int = 60) -> Image:
    return np.asarray(
        cv2.imdecode(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1], cv2.IMREAD_COLOR)
    )


@pytest.mark.parametrize(
    "change",
    [
        as_jpeg,
        lambda image: cv2.resize(image, (61, 80), interpolation=cv2.INTER_AREA),
        lambda image: np.clip(image * 0.8 + 20, 0, 255).astype(np.uint8),
        lambda image: cv2.resize(image[1:-1, 1:-1], (96, 96)),
    ],
    ids=["jpeg", "resized", "darker", "cropped by 2%"],
)
def test_copies_are_near(change: Callable[[Image], Image]) -> None:
    pairs = [gather(["a", "b"], [hash_image(scene(n)), hash_image(change(scene(n)))]) for n in range(10)]
    assert sum(are_near(pair, 0, pair, 1) for pair in pairs) >= 9


def test_other_pictures_are_not_near() -> None:
    hashes = gather([str(n) for n in range(60)], (hash_image(scene(n)) for n in range(60)))
    assert cluster(hashes).tolist() == list(range(60))


def test_flat_pictures_have_nothing_to_compare() -> None:
    flat = [np.full((64, 64, 3), value, np.uint8) for value in (10, 200)]
    assert cluster(gather(["dark", "light"], map(hash_image, flat))).tolist() == [0, 1]


def test_clusters_are_named_and_chain() -> None:
    pictures = {"a": scene(1), "b": scene(2), "c": as_jpeg(scene(1)), "d": as_jpeg(as_jpeg(scene(1), 90), 40)}
    hashes = hash_images(list(pictures), pictures.__getitem__)
    assert cluster_names(hashes) == {"a": "a", "b": "b", "c": "a", "d": "a"}


def test_nearest_agrees_with_brute_force() -> None:
    left, right = (
        gather([str(n) for n in seeds], (hash_image(scene(n)) for n in seeds)) for seeds in (range(8), range(20, 33))
    )
    differ = [
        [
            (int(left.cosine[i]) ^ int(right.cosine[j])).bit_count()
            + (int(left.gradient[i]) ^ int(right.gradient[j])).bit_count()
            for j in range(13)
        ]
        for i in range(8)
    ]
    position, bits = nearest(left, right)
    assert bits.tolist() == [min(row) for row in differ]
    assert position.tolist() == [row.index(min(row)) for row in differ]
    with pytest.raises(ValueError, match="empty"):
        nearest(left, right.take([]))
