"""CVAT for images 1.1: z_order, masks, boxes and subsets come out as they are seen in CVAT."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from foreign_sets import assert_labels, converted, painted
from mask_sets import SIDE_PX, write_images

from analysis.conversion.xml_events import elements
from trainables.data.card import DataProblems

POLYGON = '<polygon label="{}" occluded="0" points="{}" z_order="{}"></polygon>'
SQUARE, SMALL = "2.0,2.0;12.0,2.0;12.0,12.0;2.0,12.0", "6,6;10,6;10,10;6,10"


def write_xml(root: Path, *images: str, name: str = "annotations.xml", meta: str = "") -> None:
    text = f'<?xml version="1.0" encoding="utf-8"?>\n<annotations><version>1.1</version>{meta}{"".join(images)}'
    (root / name).write_text(f"{text}</annotations>", encoding="utf-8")


def image(name: str, *shapes: str, subset: str = "", height: object = SIDE_PX[0]) -> str:
    extra = f' subset="{subset}"' if subset else ""
    return f'<image id="0" name="{name}"{extra} width="{SIDE_PX[1]}" height="{height}">{"".join(shapes)}</image>'


def labels(*names: str) -> str:
    listed = "".join(f"<label><name>{name}</name><color>#ff0000</color></label>" for name in names)
    return f"<meta><task><labels>{listed}</labels></task></meta>"


def test_z_order_decides_and_labels_give_the_order(tmp_path: Path) -> None:
    root = tmp_path / "set"
    write_images(root / "images", ["a.jpg"])
    shapes = [POLYGON.format("paper", SQUARE, 1), POLYGON.format("glass", SMALL, 2), POLYGON.format("glass", SMALL, 0)]
    corner = POLYGON.format("metal", "10,10;30,10;30,20;10,20", 0)
    write_xml(root, image("a.jpg", corner, *shapes), meta=labels("paper", "metal", "unused", "glass"))
    seen = [(n, slice(a, b), slice(c, d)) for n, a, b, c, d in (("metal", 10, 20, 10, 30), ("paper", 2, 12, 2, 12))]
    expected = painted(*seen, ("glass", slice(6, 10), slice(6, 10)))
    assert_labels(converted("cvat", root), {"train": {"images/a.jpg": expected}})
    categories = json.loads((tmp_path / "converted/train.json").read_text())["categories"]
    assert [each["name"] for each in categories] == ["paper", "metal", "unused", "glass"]


def test_masks_boxes_ellipses_and_subsets(tmp_path: Path) -> None:
    root = tmp_path / "set"
    write_images(root / "images", ["train/a.jpg", "validation/b.jpg"])
    mask = '<mask label="ring" rle="0, 5, 2, 3, 2, 3" left="20" top="2" width="5" height="3"/>'
    ellipse = '<ellipse label="disc" cx="10" cy="12" rx="6" ry="3" rotation="90"/>'
    box = '<box label="box" xtl="26" ytl="20" xbr="31" ybr="24"/><tag label="ring"/>'
    write_xml(root, image("a.jpg", mask, ellipse, box, subset="train"), image("b.jpg", box, subset="validation"))
    found = converted("cvat", root, boxes=True)
    assert_labels(
        {"val": found["val"]}, {"val": {"images/validation/b.jpg": painted(("box", slice(20, 24), slice(26, 31)))}}
    )
    label = found["train"]["images/train/a.jpg"]
    ring = np.array([[1, 1, 1, 1, 1], [0, 0, 1, 1, 1], [0, 0, 1, 1, 1]], bool)
    np.testing.assert_array_equal(label[2:5, 20:25] == "ring", ring)
    y, x = np.indices(SIDE_PX) + 0.5
    distance = np.hypot((x - 10) / 3, (y - 12) / 6)
    assert (label[distance < 0.85] == "disc").all()
    assert not (label[distance > 1.15] == "disc").any()


REFUSED = {
    '<polyline label="a" points="1,1;5,5"/>': "kind 'polyline' have no area",
    '<points label="a" points="1,1"/>': "kind 'points' have no area",
    '<cuboid label="a"/>': "kind 'cuboid' have no area",
    '<box label="a" xtl="1" ytl="1" xbr="5" ybr="5"/>': "give --boxes",
    '<polygon label="a" points="1,1;5"/>': "points must be 'x,y;x,y;...'",
    '<polygon label="a" points="1,1;5,nan;2,2"/>': "finite numbers",
    '<polygon label="a" points="1,1;5,5;1,5" z_order="1.5"/>': "z_order must be a whole number",
    '<polygon points="1,1;5,5;1,5"/>': "needs a label",
    '<mask label="a" rle="1,2" left="0" top="0" width="2" height="2"/>': "runs that add up to 4 px",
    '<mask label="a" rle="-1,5" left="0" top="0" width="2" height="2"/>': "runs that add up to 4 px",
    '<mask label="a" rle="4" left="31" top="0" width="2" height="2"/>': "must lie in its image",
    '<mask label="a" rle="4" left="0" top="0" width="99999" height="99999"/>': "must lie in its image",
}


def test_everything_that_is_wrong_is_said_at_once(tmp_path: Path) -> None:
    root = tmp_path / "set"
    write_images(root / "images", ["a.jpg", "b.jpg"])
    (tmp_path / "secret.jpg").write_bytes((root / "images/a.jpg").read_bytes())
    named = [image("../secret.jpg"), image("../../secret.jpg"), image("/etc/passwd"), image("none.jpg"), image("")]
    write_xml(root, image("a.jpg", *REFUSED), image("b.jpg", height=99), image("b.jpg", height="x"), *named)
    with pytest.raises(DataProblems) as caught:
        converted("cvat", root)
    said = "\n".join(caught.value.problems)
    others = ["leaves the folder", "an absolute path", "no file at", "says 32 x 99 px", "height must be a whole number"]
    others += ["needs a name"]
    assert [each for each in [*REFUSED.values(), *others] if each not in said] == []
    assert len(caught.value.problems) == len(REFUSED) + len(others) + 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<annotations><track/></annotations>", "CVAT for video"),
        ("<annotations></annotations>", "lists no image"),
        ("<annotation><object/></annotation>", "got <annotation>"),
        ("<annotations><image>", "not valid XML"),
        ('<!DOCTYPE a [<!ENTITY b "c">]><annotations>&b;</annotations>', "no document type"),
        ('<!DOCTYPE a SYSTEM "file:///etc/passwd"><annotations/>', "no document type"),
        ("<annotations>" + "<a>" * 1000, "nested more than 50"),
        ('<?xml version="1.0" encoding="nonsense"?><annotations/>', "not valid XML"),
    ],
)
def test_files_of_other_kinds_and_hostile_ones(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set/annotations.xml").write_text(text)
    with pytest.raises(DataProblems, match=message):
        converted("cvat", tmp_path / "set")


def test_elements_come_as_they_are_read(tmp_path: Path) -> None:
    """Not only once the whole file was parsed: a broken end does not hide the beginning."""
    (tmp_path / "a.xml").write_text("<a>" + '<b c="1">d</b>' * 20_000 + "<")
    first = islice(elements(tmp_path / "a.xml"), 3)
    assert [(each.path, each.attributes, each.text) for each in first] == [
        (("a",), {}, ""),
        (("a", "b"), {"c": "1"}, ""),
        (("a", "b"), {"c": "1"}, "d"),
    ]
