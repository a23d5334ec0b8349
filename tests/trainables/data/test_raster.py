"""Masks against pycocotools, pixel for pixel, and what must never reach it."""

from __future__ import annotations

import resource
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from trainables.data.card import read_card
from trainables.data.index import Annotation, ImageRecord
from trainables.data.raster import check_segmentation, outline_px, rasterise, rle_runs, segmentation_mask
from trainables.data.reader import read


def record(*annotations: tuple[int, Any, float], height: int = 20, width: int = 30) -> ImageRecord:
    parts = tuple(Annotation(n, k, segm, area, False) for n, (k, segm, area) in enumerate(annotations))
    return ImageRecord("a.jpg", Path("a.jpg"), height, width, "a.jpg", "train", parts)


def painted(coco: COCO, image_id: int, class_of: dict[int, int], base: int) -> np.ndarray[Any, Any]:
    """The oracle: annToMask of every annotation, the largest first, over a map of `base`."""
    size = coco.imgs[image_id]
    label = np.full((size["height"], size["width"]), base)
    annotations = coco.loadAnns(coco.getAnnIds(imgIds=[image_id]))
    masks = [(coco.annToMask(each) == 1, class_of[each["category_id"]]) for each in annotations]
    for mask, class_index in sorted(masks, key=lambda pair: -pair[0].sum()):
        label = np.where(mask, class_index, label)
    return label


@pytest.mark.parametrize(
    ("name", "file", "every"), [("trash_sample", "train", 1), ("trash_sample", "val", 1), ("camvid", "val", 20)]
)
def test_real_masks_equal_pycocotools(shared_data: Path, name: str, file: str, every: int) -> None:
    card = read_card(shared_data / name / "data.yaml")
    index = read(card)
    coco = COCO(str(shared_data / name / f"{file}.json"))
    class_of = {
        category["id"]: 255 if category["name"] in card.ignore else index.classes.index(category["name"])
        for category in coco.dataset["categories"]
    }
    records = index.by_id()
    for image_id, entry in list(coco.imgs.items())[::every]:
        ours = rasterise(records[entry["file_name"]], 255, background=card.background)
        want = painted(coco, image_id, class_of, 0 if card.background else 255)
        assert np.array_equal(ours, want), entry["file_name"]


def test_all_segmentation_kinds_give_one_mask() -> None:
    polygon = [[3, 4, 15, 4, 15, 12, 3, 12], [20, 1, 28, 1, 28, 9]]
    rle = coco_mask.merge(coco_mask.frPyObjects(polygon, 20, 30))
    runs = {"size": [20, 30], "counts": rle_runs(rle["counts"]).tolist()}
    text = {"size": [20, 30], "counts": rle["counts"].decode()}
    want = coco_mask.decode(rle)
    for segmentation in (polygon, rle, text, runs):
        assert np.array_equal(segmentation_mask(segmentation, 20, 30), want)


@pytest.mark.parametrize("density", [0.0, 0.02, 0.5, 1.0])
def test_rle_runs_are_the_runs_of_the_mask(density: float) -> None:
    rng = np.random.default_rng(3)
    mask = np.asfortranarray(rng.random((61, 47)) < density).astype(np.uint8, order="F")
    flat = np.concatenate(([0], mask.ravel(order="F")))
    edges = np.flatnonzero(np.diff(flat))
    want = np.diff(np.concatenate(([0], edges, [mask.size])))
    assert rle_runs(coco_mask.encode(mask)["counts"]).tolist() == want.tolist()


def test_larger_areas_go_first_and_ties_keep_their_order() -> None:
    whole = [[0, 0, 30, 0, 30, 20, 0, 20]]
    half = [[0, 0, 15, 0, 15, 20, 0, 20]]
    label = rasterise(record((1, half, 300.0), (2, whole, 600.0), (3, half, 300.0)), 255)
    assert (label[:, :15] == 3).all()
    assert (label[:, 15:] == 2).all()
    assert label.flags["C_CONTIGUOUS"]


@pytest.mark.parametrize(("background", "base"), [(True, 0), (False, 255)])
def test_pixels_under_no_annotation(background: bool, base: int) -> None:
    assert (rasterise(record(), 255, background=background) == base).all()


def test_crowds_paint_their_class_and_ignored_categories_255() -> None:
    crowd = Annotation(1, 4, {"size": [2, 2], "counts": [0, 2, 2]}, 2.0, True)
    void = Annotation(2, 255, {"size": [2, 2], "counts": [2, 2]}, 2.0, False)
    image = ImageRecord("a", Path("a"), 2, 2, "a", "train", (crowd, void))
    assert rasterise(image, 255).tolist() == [[4, 255], [4, 255]]


def test_a_polygon_of_two_points_first_is_not_taken_for_a_box() -> None:
    triangle = [5.0, 5.0, 15.0, 5.0, 15.0, 15.0]
    with_stub = segmentation_mask([[1.0, 1.0, 9.0, 9.0], triangle], 20, 30)
    assert np.array_equal(with_stub, segmentation_mask([triangle], 20, 30))


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        ([], "is empty"),
        (None, "must be polygons or RLE"),
        ([1, 2, 3, 4, 5, 6], "must be a list"),
        ([[1, 2, 3, 4, 5]], "even number"),
        ([[1, 2, 3, 4, 5, float("nan")]], "finite numbers"),
        ([["1", "2", "3", "4", "5", "6"]], "finite numbers"),
        ([[0, 0, 1e9, 0, 1e9, 1e9]], "near the image"),
        ([[0, 0, -(2**63), 0, 5, 5]], "near the image"),
        ([[0, 0, 10**400, 0, 5, 5]], "finite numbers"),
        ([[0, 0, True, 0, 5, 5]], "finite numbers"),
        ([[0, 0, [[[]]], 0, 5, 5]], "finite numbers"),
        ([[-300, 0, 300, 5] * 2000], "outlines must be at most 1048576 px"),
        ([[-300, 0, 300, 5]] * 1 + [[0, 0, 300, 0, 300, 300, 0, 300]] * 3000, "outlines must be at most"),
        ({"size": [20, 30], "counts": [-(2**63), 600]}, "from 0 to H"),
        ({"size": [20, 30], "counts": "0" * 3 + "P" * 9}, "broken"),
        ({"size": [30, 20], "counts": [600]}, "size must be the image's"),
        ({"size": [20, 30], "counts": [601]}, "from 0 to H"),
        ({"size": [20, 30], "counts": [3, 5]}, "add up to H"),
        ({"size": [20, 30], "counts": ""}, "add up to H"),
        ({"size": [20, 30], "counts": "zzzz"}, "broken"),
        ({"size": [20, 30], "counts": "é"}, "ASCII"),
        ({"size": [20, 30]}, "list or a string"),
    ],
)
def test_what_cannot_be_painted_is_refused(segmentation: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_segmentation(segmentation, 20, 30)
    with pytest.raises(ValueError, match=f"annotation 0: .*{message}"):
        rasterise(record((1, segmentation, 1.0)), 255)


def test_outlines_are_measured_by_the_longer_side_of_each_edge() -> None:
    assert outline_px([[0, 0, 30, 0, 30, 20], [5, 5, 6, 6]]) == 30 + 20 + 30 + 3


def test_a_zigzag_is_refused_before_it_fills_the_memory() -> None:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ValueError, match="simplify them"):
        segmentation_mask([[-19990, 0, 19990, 1000] * 1000], 1500, 2000)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < 2**15  # KiB


def test_thousands_of_parts_are_merged_as_a_few_are() -> None:
    rng = np.random.default_rng(0)
    corners = rng.integers(0, 90, (3000, 1, 2))
    parts = (corners + np.array([[0, 0], [4, 0], [4, 4], [0, 4]])).reshape(len(corners), 8).tolist()
    whole = segmentation_mask(parts, 100, 100)
    one_by_one = np.zeros((100, 100), bool)
    for part in parts:
        one_by_one |= segmentation_mask([part], 100, 100) > 0
    assert np.array_equal(whole, one_by_one)
