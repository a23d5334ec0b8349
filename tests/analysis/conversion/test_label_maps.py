"""Pascal VOC and Cityscapes: label maps come out value by value, polygons as they lie over each other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from foreign_sets import assert_labels, converted, painted, rectangle
from mask_sets import SIDE_PX, write_images
from PIL import Image

from trainables.data.card import DataProblems

CAT, VOID = (slice(2, 12), slice(4, 16)), (slice(12, 14), slice(4, 16))


def values(*parts: tuple[int, tuple[slice, slice]], under: int = 0) -> np.ndarray:
    label = np.full(SIDE_PX, under, np.uint8)
    for value, place in parts:
        label[place] = value
    return label


def write_palette(path: Path, label: np.ndarray, colours: dict[int, tuple[int, int, int]] | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(label).convert("P") if colours is None else Image.fromarray(label, "P")
    palette = [0] * 768
    for value, colour in (colours or {}).items():
        palette[3 * value : 3 * value + 3] = colour
    image.putpalette(palette)
    image.save(path)


def write_text(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def write_voc(root: Path) -> None:
    write_images(root / "JPEGImages", ["a.jpg", "b.jpg", "boxes_only.jpg"])
    none = dict.fromkeys(range(256), (0, 0, 0))
    write_palette(root / "SegmentationClass/a.png", values((8, CAT), (255, VOID)), none)
    write_palette(root / "SegmentationClass/b.png", values((15, VOID), (8, CAT)), none)


def test_voc_by_its_palette_and_lists(tmp_path: Path) -> None:
    root = tmp_path / "set"
    write_voc(root)
    for name, listed in (("train", "a\n"), ("val", "b\n"), ("trainval", "a\nb\n")):
        write_text(root / f"ImageSets/Segmentation/{name}.txt", listed)
    expected = {
        "train": {"JPEGImages/a.jpg": painted(("cat", *CAT), ("", *VOID))},
        "val": {"JPEGImages/b.jpg": painted(("cat", *CAT), ("person", *VOID))},
    }
    assert_labels(converted("voc", root), expected)
    content = json.loads((tmp_path / "converted/val.json").read_text())
    assert [each["name"] for each in content["categories"]][-2:] == ["tvmonitor", "void"]


def test_voc_by_the_colours_of_a_label_map(tmp_path: Path) -> None:
    root = tmp_path / "set"
    write_images(root / "JPEGImages", ["a.jpg"])
    table = "# label:color_rgb:parts:actions\nbackground:0,0,0::\nleaf:0,200,0::\nstem:9,9,9::\n"
    write_text(root / "labelmap.txt", table)
    colours = {0: (0, 0, 0), 1: (9, 9, 9), 2: (0, 200, 0)}
    write_palette(root / "SegmentationClass/a.png", values((2, CAT), (1, VOID)), colours)
    assert_labels(converted("voc", root), {"train": {"JPEGImages/a.jpg": painted(("leaf", *CAT), ("stem", *VOID))}})


def test_voc_says_everything_that_is_wrong_at_once(tmp_path: Path) -> None:
    root = tmp_path / "set"
    write_voc(root)
    write_palette(root / "SegmentationClass/b.png", values((77, CAT)))
    write_palette(root / "SegmentationClass/lone.png", values())
    write_palette(root / "SegmentationClass/boxes_only.png", values()[1:])
    write_text(root / "SegmentationClass/torn.png", "no PNG")
    write_images(root / "JPEGImages", ["torn.jpg"])
    write_text(root / "ImageSets/Segmentation/train.txt", "a b lone boxes_only torn ../../secret")
    with pytest.raises(DataProblems) as caught:
        converted("voc", root)
    said = "\n".join(caught.value.problems)
    expected = ["got 77 in 120 px", "has no image JPEGImages/lone.jpg", "says 32 x 23 px", "cannot be read"]
    expected += ["'../../secret' has no mask"]
    assert [each for each in expected if each not in said] == []
    assert len(caught.value.problems) == len(expected)


def write_city(root: Path, name: str, objects: list[dict[str, Any]] | None, ids: np.ndarray | None) -> None:
    write_images(root / "leftImg8bit", [f"{name}_leftImg8bit.png"])
    place = root / "gtFine" / f"{name}_gtFine"
    place.parent.mkdir(parents=True, exist_ok=True)
    if objects is not None:
        content = {"imgHeight": SIDE_PX[0], "imgWidth": SIDE_PX[1], "objects": objects}
        place.with_name(f"{place.name}_polygons.json").write_text(json.dumps(content))
    if ids is not None:
        Image.fromarray(ids).save(place.with_name(f"{place.name}_labelIds.png"))


def city(label: str, place: tuple[slice, slice], **more: Any) -> dict[str, Any]:
    rows, columns = place
    return {"label": label, "polygon": rectangle(columns.start, rows.start, columns.stop, rows.stop)} | more


WHOLE, INNER = (slice(0, 24), slice(0, 32)), (slice(4, 8), slice(6, 10))


def test_cityscapes_by_polygons_and_by_ids(tmp_path: Path) -> None:
    root = tmp_path / "set"
    objects = [city("person", INNER), city("cargroup", CAT), city("road", VOID, deleted=1), city("caravan", VOID)]
    write_city(root, "train/aachen/aachen_0", objects, None)
    ids = values((26, CAT), (4, VOID), (255, INNER), under=7)
    write_city(root, "train/aachen/aachen_1", [city("sky", WHOLE)], ids)
    write_city(root, "val/bonn/bonn_0", [city("sky", WHOLE), city("out of roi", VOID)], None)
    write_city(root, "test/ulm/ulm_0", [city("out of roi", WHOLE)], None)
    found = converted("cityscapes", root)
    assert found.pop("unlabelled").keys() == {"leftImg8bit/test/ulm/ulm_0_leftImg8bit.png"}
    train = {
        "aachen_0": painted(("car", *CAT), under=""),
        "aachen_1": painted(("car", *CAT), ("", *VOID), ("", *INNER), under="road"),
    }
    expected = {
        "train": {f"leftImg8bit/train/aachen/{name}_leftImg8bit.png": label for name, label in train.items()},
        "val": {"leftImg8bit/val/bonn/bonn_0_leftImg8bit.png": painted(("", *VOID), under="sky")},
    }
    assert_labels(found, expected)


def test_cityscapes_says_everything_that_is_wrong_at_once(tmp_path: Path) -> None:
    root = tmp_path / "set"
    wrong = [city("spaceship", CAT), {"label": "car", "polygon": [1]}, {"label": "car", "polygon": [[1, "x"]] * 3}, 3]
    write_city(root, "train/a/a_0", wrong, None)
    write_city(root, "train/a/a_1", None, None)
    write_city(root, "train/a/a_2", None, values((99, CAT)))
    write_city(root, "train/a/a_3", None, values()[1:])
    with pytest.raises(DataProblems) as caught:
        converted("cityscapes", root)
    said = "\n".join(caught.value.problems)
    expected = ["got 'spaceship'", "[x, y] pairs", "finite numbers", "must be an object", "has neither", "got 99"]
    expected += ["says 32 x 23 px"]
    assert [each for each in expected if each not in said] == []
    assert len(caught.value.problems) == len(expected)


@pytest.mark.parametrize("kind", ["labelme", "cvat", "voc", "yolo", "cityscapes"])
def test_an_empty_folder_is_told_what_is_missing(tmp_path: Path, kind: str) -> None:
    (tmp_path / "set").mkdir()
    with pytest.raises(ValueError, match=r"LabelMe has|CVAT for|VOC has|YOLO's|Cityscapes has"):
        converted(kind, tmp_path / "set")
