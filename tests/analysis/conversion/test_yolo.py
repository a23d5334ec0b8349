"""YOLO segmentation: shares of the image's own sides, parts by YAML or folders, smaller polygons on top."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from foreign_sets import assert_labels, converted, painted
from mask_sets import SIDE_PX, write_images

from trainables.data.card import DataProblems

HEIGHT, WIDTH = SIDE_PX
PAPER, GLASS = ("paper", slice(2, 12), slice(4, 16)), ("glass", slice(6, 10), slice(8, 12))


def line(number: int, rows: slice, columns: slice) -> str:
    corners = [(columns.start, rows.start), (columns.stop, rows.start), (columns.stop, rows.stop)]
    corners += [(columns.start, rows.stop)]
    return " ".join([str(number), *(f"{x / WIDTH} {y / HEIGHT}" for x, y in corners)]) + "\n"


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def write_set(root: Path) -> None:
    write_images(root, ["train/images/a.jpg", "train/images/empty.jpg", "valid/images/b.jpg", "test/images/c.jpg"])
    write(root / "train/labels/a.txt", line(1, *GLASS[1:]) + line(0, *PAPER[1:]))
    write(root / "valid/labels/b.txt", line(1, *GLASS[1:]))


EXPECTED = {
    "train": {"train/images/a.jpg": painted(PAPER, GLASS), "train/images/empty.jpg": painted()},
    "val": {"valid/images/b.jpg": painted(GLASS)},
}


@pytest.mark.parametrize(
    "table",
    [
        "path: /home/author/datasets/x\ntrain: ../train/images\nval: ../valid/images\nnames: [paper, glass]\nnc: 2\n",
        "train: train/images\nval: [valid/images]\nnames: {1: glass, 0: paper}\n",
        "path: .\ntrain: list.txt\nval: valid\nnames: [paper, glass]\n",
    ],
)
def test_parts_that_the_yaml_file_names(tmp_path: Path, table: str) -> None:
    root = tmp_path / "set"
    write_set(root)
    write(root / "data.yaml", table)
    write(root / "list.txt", "./train/images/a.jpg\ntrain/images/empty.jpg\n")
    assert_labels(converted("yolo", root), EXPECTED)


def test_parts_that_folders_name_and_a_test_without_labels(tmp_path: Path) -> None:
    root = tmp_path / "set"
    write_set(root)
    write(root / "classes.txt", "paper\nglass\nunused\n")
    found = converted("yolo", root)
    assert found.pop("unlabelled").keys() == {"test/images/c.jpg"}
    assert_labels(found, EXPECTED)
    content = json.loads((tmp_path / "converted/train.json").read_text())
    assert [each["name"] for each in content["categories"]] == ["paper", "glass", "unused"]
    assert isinstance(content["annotations"][0]["segmentation"], list)  # polygons stay polygons


def test_boxes_where_the_user_says_so(tmp_path: Path) -> None:
    root = tmp_path / "set"
    write_images(root / "images", ["a.jpg"])
    write(root / "classes.txt", "paper")
    write(root / "labels/a.txt", f"0 {10 / WIDTH} {7 / HEIGHT} {12 / WIDTH} {10 / HEIGHT}")
    assert_labels(converted("yolo", root, boxes=True), {"train": {"images/a.jpg": painted(PAPER)}})


REFUSED = {
    "0 0.5 0.5 0.1 0.1": "give --boxes",
    "2 0 0 1 0 1 1": "class 2 is not among",
    "0.5 0 0 1 0 1 1": "class 0.5 is not among",
    "nan 0 0 1 0 1 1": "class nan is not among",
    "0 0 0 1 0 1 1 0.9": "pairs of coordinates, got 7",
    "0 0 0": "pairs of coordinates, got 2",
    "0 0 0 12 0 12 12": "from 0 to 1",
    "0 0 0 1 0 1 nan": "from 0 to 1",
    "paper 0 0 1 0 1 1": "must be a class number",
}


def test_everything_that_is_wrong_is_said_at_once(tmp_path: Path) -> None:
    root = tmp_path / "set"
    write_images(root / "images", ["a.jpg", "b.jpg"])
    write(root / "labels/a.txt", "\n".join(REFUSED))
    write(root / "labels/lone.txt", "0 0 0 1 0 1 1")
    (root / "labels/b.txt").write_bytes(b"\xff\xfe0 1")
    write(root / "data.yaml", "train: list.txt\nval: nowhere\ntest: ../../\nnames: [paper, glass]")
    write(root / "list.txt", "images/a.jpg\nimages/b.jpg\n../secret.jpg\n/etc/passwd")
    with pytest.raises(DataProblems) as caught:
        converted("yolo", root)
    said = "\n".join(caught.value.problems)
    others = [
        "lone.txt: has no image",
        "is not UTF-8",
        "leaves the folder",
        "an absolute path",
        "val: nothing at",
        "test: nothing at",
    ]
    assert [each for each in [*REFUSED.values(), *others] if each not in said] == []
    assert len(caught.value.problems) == len(REFUSED) + len(others)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("train: images", "under `names` in data.yaml"),
        ("names: [a, a]", "is there twice"),
        ("names: {x: a}", "by whole number"),
        ("names: [a, 3]", "by whole number"),
        ("names: 3", "must be a list"),
        ("names: [a]\nnc: 2", "nc is 2, and names has 1"),
        ("- a", "must be a mapping"),
        ("names: [", "not valid YAML"),
        ("names: [a]", "holds no image"),
    ],
)
def test_tables_that_cannot_be_used(tmp_path: Path, table: str, message: str) -> None:
    write(tmp_path / "set/data.yaml", table)
    with pytest.raises(ValueError, match=message):
        converted("yolo", tmp_path / "set")
