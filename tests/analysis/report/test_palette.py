from __future__ import annotations

import numpy as np
import pytest

from analysis.report.palette import IGNORED, paint, palette, png_palette, seen_by


def test_colours_are_distinct_and_do_not_depend_on_how_many_there_are() -> None:
    every = palette(255, background=True)
    assert len({tuple(colour) for colour in every.tolist()}) == 255
    np.testing.assert_array_equal(palette(11, background=True), every[:11])
    np.testing.assert_array_equal(palette(10, background=False), every[1:11])


def test_the_first_twelve_are_told_apart_by_three_kinds_of_eyes() -> None:
    lab = seen_by(palette(12, background=True))  # (3,12,3)
    gap = np.linalg.norm(lab[:, :, None] - lab[:, None], axis=-1) + 1000 * np.eye(12)
    assert gap.min() > 15  # CIELAB; 2.3 is just noticeable


def test_white_has_the_lightness_of_100_for_all_eyes() -> None:
    lab = seen_by(np.array([[255, 255, 255], [0, 0, 0]], dtype=np.uint8))
    np.testing.assert_allclose(lab[:, 0, 0], 100, atol=0.1)
    np.testing.assert_allclose(lab[:, 1], 0, atol=1e-9)


def test_painting_and_the_png_palette_agree() -> None:
    colours = palette(3, background=True)
    label = np.array([[0, 1], [2, 255]], dtype=np.uint8)
    flat = np.array(png_palette(colours)).reshape(256, 3)
    np.testing.assert_array_equal(paint(label, colours), flat[label])
    assert tuple(paint(label, colours)[1, 1]) == IGNORED


@pytest.mark.parametrize("num_classes", [0, 256])
def test_a_number_of_classes_that_a_byte_does_not_hold(num_classes: int) -> None:
    with pytest.raises(ValueError, match="1 to 255 classes"):
        palette(num_classes, background=True)
