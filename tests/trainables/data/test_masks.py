"""Masks as users have them: one channel, palette, RGB; what is wrong with them is told at once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from mask_sets import card, made_label, write_images, write_mask
from PIL import Image

from trainables.data.card import DataProblems, read_card
from trainables.data.index import IGNORE_INDEX, SegIndex
from trainables.data.label_sources import label_source
from trainables.data.reader import read

NAMED = "classes: [background, paper, glass]"
LABEL = made_label(0)  # of 0, 1, 2


def index_of(root: Path, mask: Image.Image, rules: str = NAMED, suffix: str = ".png", **save: Any) -> SegIndex:
    write_images(root, ["images/a.jpg"])
    (root / "masks").mkdir(exist_ok=True)
    mask.save(root / "masks" / f"a{suffix}", **save)
    return read(read_card(card(root, "data.yaml", f"train: {{images: images, masks: masks}}\n{rules}\n")))


def label_of(index: SegIndex) -> np.ndarray:
    return label_source(index, index.images[0]).label()


def problems(root: Path, mask: Image.Image, rules: str = NAMED, **save: Any) -> str:
    with pytest.raises(DataProblems) as caught:
        index_of(root, mask, rules, **save)
    return "\n".join(caught.value.problems)


def palette_image(label: np.ndarray, **save: Any) -> Image.Image:
    image = Image.fromarray(label).convert("P")
    image.putdata(label.ravel().tolist())
    image.putpalette([0, 0, 0, 128, 64, 128, 70, 70, 70])
    return image


def rgb(label: np.ndarray) -> Image.Image:
    table = np.array([[0, 0, 0], [128, 64, 128], [70, 70, 70]], np.uint8)
    return Image.fromarray(table[label])


COLOURS = "classes: {'0, 0, 0': background, '#804080': paper, '#464646': glass}"


@pytest.mark.parametrize(
    ("mask", "rules"),
    [
        (Image.fromarray(LABEL), NAMED),
        (palette_image(LABEL), NAMED),
        (palette_image(LABEL), COLOURS),
        (rgb(LABEL), COLOURS),
        (rgb(LABEL).convert("RGBA"), COLOURS),
        (Image.fromarray(np.dstack([LABEL] * 3)), NAMED),
        (Image.fromarray(LABEL.astype(np.uint16) * 1000), "classes: {0: background, 1000: paper, 2000: glass}"),
    ],
    ids=["grey", "palette", "palette as colours", "rgb", "rgba", "grey as rgb", "16 bits"],
)
def test_every_form_of_mask_gives_the_same_labels(tmp_path: Path, mask: Image.Image, rules: str) -> None:
    index = index_of(tmp_path, mask, rules)
    assert index.classes == ("Background", "paper", "glass")
    np.testing.assert_array_equal(label_of(index), LABEL)
    assert index.images[0].image_id == "images/a.jpg"


@pytest.mark.parametrize("white", [1, 255])
def test_white_of_one_bit_is_the_value_that_the_classes_name(tmp_path: Path, white: int) -> None:
    index = index_of(tmp_path, Image.fromarray(LABEL > 0), f"classes: {{0: background, {white}: cell}}")
    np.testing.assert_array_equal(label_of(index), LABEL > 0)


def test_ignored_values_names_and_the_zero_label(tmp_path: Path) -> None:
    def label(rules: str, mask: np.ndarray = LABEL) -> list[int]:
        return np.unique(label_of(index_of(tmp_path, Image.fromarray(mask), rules))).tolist()

    assert label(f"{NAMED}\nignore: [glass]") == [0, 1, IGNORE_INDEX]
    assert label("classes: [background, paper]\nignore_index: 2") == [0, 1, IGNORE_INDEX]
    assert label("classes: [paper, glass]\nreduce_zero_label: true") == [0, 1, IGNORE_INDEX]
    assert label(NAMED, np.where(LABEL == 2, 255, LABEL).astype(np.uint8)) == [0, 1, IGNORE_INDEX]
    assert label("classes: {0: background, 1: paper, 2: paper}") == [0, 1]
    assert label("classes: {0: sky, 1: paper, 2: glass}") == [0, 1, 2]


def test_without_a_class_of_that_name_there_is_no_background(tmp_path: Path) -> None:
    index = index_of(tmp_path, Image.fromarray(LABEL), "classes: [sky, paper, glass]")
    assert index.classes == ("sky", "paper", "glass")
    assert not index.background
    index = index_of(tmp_path, Image.fromarray(LABEL), "classes: {1: paper, 2: glass, 0: background}")
    assert index.classes == ("Background", "paper", "glass")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("classes.txt", "\ufeffbackground\r\npaper\r\nglass\r\n"),
        ("classes.json", '{"0": "background", "1": "paper", "2": "glass"}'),
        ("classes.yaml", "- background\n- paper\n- glass\n"),
    ],
)
def test_classes_come_from_a_file(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_bytes(text.encode())
    index = index_of(tmp_path, Image.fromarray(LABEL), f"classes: {name}")
    assert index.classes == ("Background", "paper", "glass")


def test_a_colour_table_as_cvat_exports_it(tmp_path: Path) -> None:
    lines = "# label:color_rgb:parts:actions\nbackground:0,0,0::\npaper:128,64,128::\nglass:70,70,70::\n"
    (tmp_path / "labelmap.txt").write_text(lines)
    np.testing.assert_array_equal(label_of(index_of(tmp_path, rgb(LABEL), "classes: labelmap.txt")), LABEL)


def test_everything_that_is_wrong_is_told_at_once(tmp_path: Path) -> None:
    write_images(tmp_path, ["images/a.jpg", "images/b.jpg", "images/c.jpg", "images/sub/d.jpg", "images/e.jpg"])
    write_mask(tmp_path / "masks" / "a.png", np.where(LABEL == 2, 7, LABEL).astype(np.uint8))
    write_mask(tmp_path / "masks" / "b.png", LABEL[:20])
    write_mask(tmp_path / "masks" / "lone.png", LABEL)
    write_mask(tmp_path / "masks" / "e.png", LABEL)
    (tmp_path / "masks" / "c.png").write_bytes(b"no picture")
    (tmp_path / "images" / "e.png").write_bytes((tmp_path / "images" / "e.jpg").read_bytes())
    path = card(tmp_path, "data.yaml", f"train: {{images: images, masks: masks}}\n{NAMED}\nignore: [glas]\n")
    with pytest.raises(DataProblems) as caught:
        read(read_card(path))
    found = "\n".join(caught.value.problems)
    for line in [
        "masks: 1 of 6 images of images have no mask (sub/d.jpg)",
        "masks: 1 of 5 masks have no image in images (lone.png)",
        "images: images must differ in more than the suffix, got e.jpg and e.png",
        "masks: c.png: the mask cannot be read",
        f"masks: value 7 is no class, in {(LABEL == 2).sum()} pixels of 1 masks (a.png)",
        "masks: image images/b.jpg: its mask has 32 x 20 px, the file has 32 x 24 px",
        "ignore names 'glas', which is no category of the card's classes; did you mean 'glass'?",
    ]:
        assert line in found
    assert len(caught.value.problems) == 7


def test_forms_that_change_values_are_refused(tmp_path: Path) -> None:
    grey = Image.fromarray(LABEL)
    (tmp_path / "masks").mkdir()
    grey.save(tmp_path / "masks" / "a.jpg")
    (tmp_path / "masks" / "a.jpg").rename(tmp_path / "masks" / "a.png")
    assert "must keep every value, as PNG does, got JPEG" in problems_as_they_lie(tmp_path)
    assert "fewer than 8; save it with 8 bits" in problems(tmp_path, grey, bits=2)
    assert "the mask is in colours, and classes are given by value" in problems(tmp_path, rgb(LABEL))
    assert "classes are colours, and the mask has mode 'L'" in problems(tmp_path, grey, COLOURS)
    clear = rgb(LABEL).convert("RGBA")
    clear.putalpha(7)
    assert "must be opaque" in problems(tmp_path, clear, COLOURS)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_sixteen_bits_are_read_whole_from_one_channel_and_refused_in_colours(tmp_path: Path, suffix: str) -> None:
    write_images(tmp_path, ["images/a.jpg"])
    (tmp_path / "masks").mkdir()
    rules = "train: {images: images, masks: masks}\nclasses: {0: background, 1: paper, 300: glass}\n"
    label = np.array([0, 1, 300], np.uint16)[LABEL]
    cv2.imwrite(str(tmp_path / "masks" / f"a{suffix}"), label)
    np.testing.assert_array_equal(label_of(read(read_card(card(tmp_path, "data.yaml", rules)))), LABEL)
    cv2.imwrite(str(tmp_path / "masks" / f"a{suffix}"), np.dstack([label] * 3))  # 300 would be read as 1
    with pytest.raises(DataProblems, match="a mask in colours must have 8 bits a channel, got 16"):
        read(read_card(tmp_path / "data.yaml"))


def test_a_mask_too_large_to_decode_and_one_that_is_no_image_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "masks").mkdir()
    (tmp_path / "masks" / "a.png").write_bytes(b"none")
    assert "a.png: the mask cannot be read as an image; write it again as PNG" in problems_as_they_lie(tmp_path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 300)
    assert "the mask is too large" in problems(tmp_path, Image.fromarray(LABEL))


def test_one_class_of_masks_is_refused_with_what_would_be_a_second(tmp_path: Path) -> None:
    found = problems(tmp_path, Image.fromarray(LABEL), "classes: {0: cell, 1: cell, 2: cell}")
    assert "got 1 (cell); name the value that means the background" in found


def problems_as_they_lie(root: Path) -> str:
    write_images(root, ["images/a.jpg"])
    with pytest.raises(DataProblems) as caught:
        read(read_card(card(root, "data.yaml", f"train: {{images: images, masks: masks}}\n{NAMED}\n")))
    return "\n".join(caught.value.problems)


def test_masks_of_background_alone_are_no_labels(tmp_path: Path) -> None:
    found = problems(tmp_path, Image.fromarray(np.zeros_like(LABEL)))
    assert "train: masks has no annotation of any class" in found


def test_masks_and_coco_join_by_name(tmp_path: Path) -> None:
    from mask_sets import write_coco

    write_images(tmp_path, ["images/a.jpg", "more/b.jpg"])
    write_mask(tmp_path / "masks" / "a.png", LABEL)
    write_coco(tmp_path / "more.json", {"b.jpg": made_label(1)})
    parts = "train: [{images: images, masks: masks}, {coco: more.json, images: more}]"
    index = read(read_card(card(tmp_path, "data.yaml", f"{parts}\nclasses: [background, glass, paper]\n")))
    assert [each.image_id for each in index.images] == ["images/a.jpg", "more/b.jpg"]
    assert index.classes == ("Background", "glass", "paper")
    joined = label_source(index, index.images[1]).label()
    np.testing.assert_array_equal(joined, np.where(made_label(1) > 0, 3 - made_label(1), 0))


def test_a_class_of_the_masks_that_is_a_supercategory_of_coco_stays_a_class(tmp_path: Path) -> None:
    from mask_sets import write_coco

    write_images(tmp_path, ["images/a.jpg", "more/b.jpg"])
    write_mask(tmp_path / "masks" / "a.png", LABEL)
    write_coco(tmp_path / "more.json", {"b.jpg": np.where(made_label(1) == 1, 0, made_label(1))})
    content = json.loads((tmp_path / "more.json").read_text())
    content["categories"][1]["supercategory"] = "paper"  # of which the file has no annotation
    (tmp_path / "more.json").write_text(json.dumps(content))
    parts = "train: {images: images, masks: masks}\nval: {coco: more.json, images: more}"
    assert read(read_card(card(tmp_path, "data.yaml", f"{parts}\n{NAMED}\n"))).classes[1:] == ("paper", "glass")


def test_a_folder_of_unlabelled_images(tmp_path: Path) -> None:
    write_images(tmp_path, ["images/a.jpg", "test/b.jpg", "test/c.jpg"])
    (tmp_path / "test" / "notes.txt").write_text("none")
    write_mask(tmp_path / "masks" / "a.png", LABEL)
    rules = f"train: {{images: images, masks: masks}}\n{NAMED}\nunlabelled: test\n"
    index = read(read_card(card(tmp_path, "data.yaml", rules)))
    assert index.ids("unlabelled") == ("test/b.jpg", "test/c.jpg")
    assert list(index.warnings) == ["test: file that is no image, left out (notes.txt)"]


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ("classes: [a, a]", "classes: 'a' is there twice"),
        ("classes: {0: a, '#000000': b}", "values and colours are mixed"),
        ("classes: {-1: a}", "-1 is neither a value from 0 to 65535 nor a colour"),
        ("classes: {0: no}", "the name of 0 must be text, got False; put it in quotes"),
        ("classes: {1: a, '1': b}", "a value or colour is there twice"),
        ("classes: {'300,0,0': a}", "nor a colour"),
        ("classes: nowhere.txt", r"the file .*nowhere\.txt cannot be read"),
        ("classes: 3", "must be a list, a mapping or a file"),
        ("classes: []", "classes is empty"),
        ("classes: {1: a}\nreduce_zero_label: true", "reduce_zero_label needs the classes as a list"),
        ("classes: [a, b]\nignore_index: 1", "ignore_index 1 is the class 'b' as well"),
        ("classes: [a, b]\nignore_index: [1]", "ignore_index: Input should be a valid integer"),
        ("classes: ['#000000']\nbackground: true", "classes name no background"),
        ("classes: {'#000000': a}\nignore_index: 1", "list the name under ignore"),
        ("background: false", "masks need classes"),
    ],
)
def test_rules_that_contradict_each_other_are_refused(tmp_path: Path, rules: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_card(card(tmp_path, "data.yaml", f"train: {{images: images, masks: masks}}\n{rules}\n"))


def test_the_real_masks_of_the_cells_are_read(shared_data: Path, tmp_path: Path) -> None:
    if not (shared_data / "wbc" / "masks").is_dir():
        pytest.skip("needs the white blood cells with their masks")
    rules = f"root: {shared_data / 'wbc'}\ntrain: {{images: images, masks: masks}}\n"
    path = card(tmp_path, "data.yaml", f"{rules}classes: {{0: background, 128: cytoplasm, 255: nucleus}}\n")
    index = read(read_card(path))
    assert len(index.images) == 300
    assert index.classes == ("Background", "cytoplasm", "nucleus")
    assert sum(len(label_source(index, record).shown_classes()) for record in index.images) >= 590
