"""Stacked shapes look the same under the rule that paints larger masks first."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from analysis.conversion.outlines import ellipse
from analysis.conversion.readers import READERS
from analysis.conversion.stacking import cut_hidden
from analysis.convert import Format
from trainables.data.index import Annotation, ImageRecord
from trainables.data.raster import Segmentation, rasterise, segmentation_mask, segmentation_rle

HEIGHT, WIDTH = 20, 30


def random_stack(seed: int) -> list[Segmentation]:
    rng = np.random.default_rng(seed)
    return [[rng.uniform(-3, 30, 2 * rng.integers(3, 6)).tolist()] for _ in range(rng.integers(2, 9))]


@pytest.mark.parametrize("seed", range(40))
def test_painting_by_size_shows_what_painting_in_order_shows(seed: int) -> None:
    stack = random_stack(seed)
    expected = np.zeros((HEIGHT, WIDTH), np.uint8)
    for n, shape in enumerate(stack, start=1):
        expected[segmentation_mask(shape, HEIGHT, WIDTH) > 0] = n
    kept = cut_hidden(stack, HEIGHT, WIDTH)
    annotations = tuple(
        Annotation(n, n, shape, float(coco_mask.area(segmentation_rle(shape, HEIGHT, WIDTH))), iscrowd=False)
        for n, shape in enumerate(kept, start=1)
        if shape is not None
    )
    record = ImageRecord("a", Path("a"), HEIGHT, WIDTH, "a", "train", annotations)
    np.testing.assert_array_equal(rasterise(record, 255), expected)


def test_shapes_that_need_no_cut_stay_as_they_are() -> None:
    large, small = [[0.0, 0, 9, 0, 9, 9, 0, 9]], [[2.0, 2, 4, 2, 4, 4, 2, 4]]
    beside = [[12.0, 0, 29, 0, 29, 19, 12, 19]]
    assert cut_hidden([large, small, beside], HEIGHT, WIDTH) == [large, small, beside]
    assert cut_hidden([small, large], HEIGHT, WIDTH) == [None, large]


@pytest.mark.parametrize("radius", [0.3, 5.0, 1e6, 1e300])
def test_an_ellipse_has_points_enough_and_no_more(radius: float) -> None:
    points = np.reshape(ellipse(0, 0, radius, radius), (-1, 2))
    assert 8 <= len(points) <= 4096
    middle = np.hypot(*((points[0] + points[1]) / 2 / radius)) * radius
    assert radius - middle <= max(0.02, 1e-6 * radius) * 1.0001


def test_every_format_of_the_command_has_a_reader() -> None:
    assert list(Format) == list(READERS)
