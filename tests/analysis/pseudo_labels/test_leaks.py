"""A planted image of train, val or hold-out among the unlabelled ones is refused, as it is or nearly."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from analysis.pseudo_labels.leaks import check_unlabelled


def picture(seed: int) -> np.ndarray:
    """(96,128,3): a few smooth blobs."""
    noise = np.random.default_rng(seed).normal(size=(6, 8, 3)).astype(np.float32)
    smooth = cv2.resize(noise, (128, 96), interpolation=cv2.INTER_CUBIC)
    return np.clip(128 + 60 * smooth, 0, 255).astype(np.uint8)


def again(pixels: np.ndarray) -> np.ndarray:
    """The same photograph, smaller, brighter and compressed anew."""
    small = cv2.resize(pixels, (100, 75), interpolation=cv2.INTER_AREA)
    encoded = cv2.imencode(".jpg", cv2.add(small, 6.0), [cv2.IMWRITE_JPEG_QUALITY, 70])[1]
    return np.asarray(cv2.imdecode(encoded, cv2.IMREAD_COLOR))


LABELLED = {"train": ["t0", "t1"], "val": ["v0"], "hold-out": ["h0"]}
IMAGES = {name: picture(seed) for seed, name in enumerate(["t0", "t1", "v0", "h0", "u0", "u1"])}


def test_other_images_pass() -> None:
    check_unlabelled(["u0", "u1"], LABELLED, IMAGES.__getitem__)
    check_unlabelled([], LABELLED, IMAGES.__getitem__)


@pytest.mark.parametrize(("part", "image"), [("train", "t1"), ("val", "v0"), ("hold-out", "h0")])
def test_a_planted_copy_is_refused(part: str, image: str) -> None:
    images = {**IMAGES, "u1": IMAGES[image].copy()}
    with pytest.raises(ValueError, match=rf"got 1 of 2 that are: 'u1' is '{image}' \({part}\); take them out"):
        check_unlabelled(["u0", "u1"], LABELLED, images.__getitem__)


def test_a_near_duplicate_is_refused_and_all_are_named() -> None:
    images = {**IMAGES, "u0": again(IMAGES["h0"]), "u1": IMAGES["t0"]}
    with pytest.raises(
        ValueError, match=r"got 2 of 2 that are: 'u1' is 't0' \(train\), 'u0' is nearly 'h0' \(hold-out\)"
    ):
        check_unlabelled(["u0", "u1"], LABELLED, images.__getitem__)


def test_flat_pictures_are_told_by_their_pixels_alone() -> None:
    images = {**IMAGES, "t0": np.full((96, 128, 3), 200, np.uint8), "u0": np.full((96, 128, 3), 90, np.uint8)}
    check_unlabelled(["u0"], LABELLED, images.__getitem__)
