"""LabelMe: what it shows is what the converted set has, pixel by pixel; what has no area is refused by name."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from foreign_sets import assert_labels, converted, labelme_shape, painted, rectangle, write_labelme
from mask_sets import SIDE_PX, write_images
from PIL import Image

from trainables.data.card import DataProblems, read_card
from trainables.data.label_sources import label_source
from trainables.data.raster import in_painting_order
from trainables.data.reader import read

PAPER = labelme_shape("paper", rectangle(2, 2, 12, 12))
GLASS = labelme_shape("glass", rectangle(6, 6, 10, 10))


def png(mask: np.ndarray) -> str:
    buffer = io.BytesIO()
    Image.fromarray(mask.astype(np.uint8)).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def test_later_shapes_lie_on_top_even_where_they_are_larger(tmp_path: Path) -> None:
    root = tmp_path / "set"
    write_images(root, ["a.jpg", "sub/b.jpg"])
    write_labelme(root / "a.json", "a.jpg", [PAPER, GLASS])
    write_labelme(root / "sub/b.json", "b.jpg", [GLASS, PAPER, labelme_shape("glass", rectangle(9, 0, 20, 5))])
    corner = ("glass", slice(0, 5), slice(9, 20))
    paper, glass = ("paper", slice(2, 12), slice(2, 12)), ("glass", slice(6, 10), slice(6, 10))
    assert_labels(
        converted("labelme", root), {"train": {"a.jpg": painted(paper, glass), "sub/b.jpg": painted(paper, corner)}}
    )


def test_folders_are_parts_and_background_and_ignored_shapes_are_kept(tmp_path: Path) -> None:
    root = tmp_path / "set"
    write_images(root / "images", ["1.jpg", "2.jpg"])
    hole = labelme_shape("_background_", rectangle(4, 4, 8, 8))
    write_labelme(root / "train/1.json", "..\\images\\1.jpg", [PAPER, hole], imageHeight=None)
    write_labelme(root / "val/2.json", "../images/2.jpg", [PAPER, labelme_shape("__ignore__", rectangle(6, 6, 10, 10))])
    paper = ("paper", slice(2, 12), slice(2, 12))
    expected = {
        "train": {"images/1.jpg": painted(paper, ("Background", slice(4, 8), slice(4, 8)))},
        "val": {"images/2.jpg": painted(paper, ("", slice(6, 10), slice(6, 10)))},
    }
    assert_labels(converted("labelme", root), expected)


def test_masks_circles_and_rectangles(tmp_path: Path) -> None:
    root = tmp_path / "set"
    write_images(root, ["a.jpg"])
    ring = np.ones((6, 8), bool)
    ring[2:4, 3:5] = False
    shapes = [
        labelme_shape("ring", [[20, 2], [27, 7]], "mask", mask=png(ring)),
        labelme_shape("disc", [[10.0, 12.0], [16.0, 12.0]], "circle"),
        labelme_shape("box", [[31, 24], [26, 20]], "rectangle"),
    ]
    write_labelme(root / "a.json", "a.jpg", shapes)
    found = converted("labelme", root, boxes=True)["train"]["a.jpg"]
    np.testing.assert_array_equal(found[2:8, 20:28] == "ring", ring)
    assert (found == "ring").sum() == ring.sum()
    y, x = np.indices(SIDE_PX) + 0.5
    distance = np.hypot(x - 10, y - 12)
    assert (found[distance < 5.4] == "disc").all()
    assert not (found[distance > 6.6] == "disc").any()
    np.testing.assert_array_equal(found == "box", painted(("box", slice(20, 24), slice(26, 31))) == "box")


REFUSED: list[tuple[dict[str, Any], str]] = [
    (labelme_shape("a", [[1, 1]], "point"), "kind 'point' have no area"),
    (labelme_shape("a", [[1, 1], [5, 5]], "line"), "kind 'line' have no area"),
    (labelme_shape("a", [[1, 1], [5, 5], [9, 9]], "linestrip"), "kind 'linestrip' have no area"),
    (labelme_shape("a", [[1, 1], [5, 5]], "rectangle"), "give --boxes"),
    (labelme_shape("a", [[1, 1], [1, 1]], "circle"), "a radius must be above 0"),
    (labelme_shape("a", [[1, 1], [5, 5], [1, 5]], "circle"), "needs two points"),
    (labelme_shape("a", [[1, 1], [9, 99]], "mask", mask="x"), "must lie in its image of 32 x 24 px"),
    (labelme_shape("a", [[1, 1], [5, 5]], "mask", mask="?"), "a PNG in base64"),
    (labelme_shape("a", [[1, 1], [5, 5]], "mask", mask=png(np.ones((2, 2)))), "has 2 x 2 px, its points 5 x 5"),
    (labelme_shape("a", [[1, "x"]]), "pairs of finite numbers"),
    (labelme_shape("a", [[1, float("nan")]] * 3), "pairs of finite numbers"),
    (labelme_shape("a", rectangle(0, 0, 9999, 5)), "must lie near the image"),
    (labelme_shape("", rectangle(0, 0, 5, 5)), "needs a label"),
    ({}, "needs a label"),
]


def test_everything_that_is_wrong_is_said_at_once(tmp_path: Path) -> None:
    root = tmp_path / "set"
    write_images(root, ["a.jpg", "b.jpg"])
    (tmp_path / "secret.jpg").write_bytes((root / "a.jpg").read_bytes())
    write_labelme(root / "a.json", "a.jpg", [shape for shape, _ in REFUSED])
    write_labelme(root / "again.json", "a.jpg", [PAPER])
    write_labelme(root / "b.json", "b.jpg", [PAPER], imageHeight=99)
    write_labelme(root / "out.json", "../secret.jpg", [PAPER])
    write_labelme(root / "absolute.json", str(tmp_path / "secret.jpg"), [PAPER])
    write_labelme(root / "case.json", "A.JPG", [PAPER])
    (root / "coco.json").write_text('{"images": []}')
    (root / "deep.json").write_text("[" * 100_000)
    with pytest.raises(DataProblems) as caught:
        converted("labelme", root)
    said = "\n".join(caught.value.problems)
    files = ["says 32 x 99 px", "leaves the folder", "an absolute path", "differs in upper and lower case"]
    files += ["coco.json: is no LabelMe file", "deep.json: is not valid JSON", "is in a.json too"]
    assert [each for each in [message for _, message in REFUSED] + files if each not in said] == []
    assert len(caught.value.problems) == len(REFUSED) + len(files)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["secret.jpg", "set"]


def test_labels_on_a_turned_picture_are_refused(tmp_path: Path) -> None:
    root = tmp_path / "set"
    root.mkdir()
    exif = Image.Exif()
    exif[0x0112] = 3
    Image.new("RGB", SIDE_PX[::-1]).save(root / "a.jpg", exif=exif)
    write_labelme(root / "a.json", "a.jpg", [PAPER])
    with pytest.raises(DataProblems, match="EXIF orientation 3"):
        converted("labelme", root)


def test_real_polygons_as_labelme_and_back(shared_data: Path, tmp_path: Path) -> None:
    """The order of LabelMe's shapes is that in which the original is painted."""
    index, root = read(read_card(shared_data / "trash_sample" / "data.yaml")), tmp_path / "set"
    expected: dict[str, np.ndarray] = {}
    root.mkdir()
    for record in [record for record in index.images if record.role == "val"]:
        name = Path(record.image_id).name
        (root / name).write_bytes(record.path.read_bytes())
        shapes = [
            labelme_shape(index.classes[each.class_index], np.reshape(part, (-1, 2)).tolist())
            for each in in_painting_order(record.annotations)
            for part in each.segmentation
        ]
        write_labelme(root / f"{name}.json", name, shapes, imageHeight=record.height, imageWidth=record.width)
        expected[name] = np.array(index.classes)[label_source(index, record).label()]
    assert_labels(converted("labelme", root), {"train": expected})
