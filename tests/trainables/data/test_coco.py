"""The COCO reader: what it accepts, and that it finds every problem at once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from trainables.data.card import DataCard, DataProblems, read_card
from trainables.data.raster import rasterise
from trainables.data.reader import read

SQUARE = [[2, 2, 10, 2, 10, 10, 2, 10]]


def picture(path: Path, height: int = 24, width: int = 32, **save: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path, **save)


def image(key: int, name: str, **changes: Any) -> dict[str, Any]:
    return {"id": key, "file_name": name, "height": 24, "width": 32} | changes


def annotation(key: int, image_id: int, category: int, segmentation: Any = SQUARE) -> dict[str, Any]:
    parts = {"segmentation": segmentation, "area": 64.0, "bbox": [2, 2, 8, 8], "iscrowd": 0}
    return {"id": key, "image_id": image_id, "category_id": category} | parts


def coco(images: list[Any], annotations: list[Any], **changes: Any) -> dict[str, Any]:
    categories = [{"id": 0, "name": "Paper"}, {"id": 7, "name": "Glass"}, {"id": 3, "name": "void"}]
    return {"images": images, "annotations": annotations, "categories": categories} | changes


def card_of(folder: Path, rules: str = "", **files: dict[str, Any]) -> DataCard:
    for role, content in files.items():
        (folder / f"{role}.json").write_text(json.dumps(content), encoding="utf-8")
    lines = [f"{role}: {role}.json" for role in files]
    (folder / "data.yaml").write_text("\n".join([*lines, rules]), encoding="utf-8")
    return read_card(folder / "data.yaml")


@pytest.fixture
def two_images(tmp_path: Path) -> Path:
    for name in ("a.jpg", "b.jpg"):
        picture(tmp_path / name)
    return tmp_path


def problems(card: DataCard) -> list[str]:
    with pytest.raises(DataProblems) as caught:
        read(card)
    return caught.value.problems


def test_ids_from_zero_with_gaps_ignored_categories_and_an_empty_image(two_images: Path) -> None:
    images = [image(0, "a.jpg"), image(5, "b.jpg")]
    train = coco(images, [annotation(0, 0, 7), annotation(1, 0, 3), annotation(2, 0, 0)])
    index = read(card_of(two_images, "ignore: [void]", train=train))
    assert index.classes == ("Background", "Paper", "Glass")  # by category id: 0, 7
    assert [each.class_index for each in index.images[0].annotations] == [2, 255, 1]
    assert index.images[1].annotations == ()
    assert index.ids("train") == ("a.jpg", "b.jpg")
    assert not index.warnings


def test_without_background_classes_start_at_the_first_category(two_images: Path) -> None:
    train = coco([image(1, "a.jpg")], [annotation(1, 1, 0)])
    index = read(card_of(two_images, "background: false", train=train))
    assert index.classes == ("Paper", "void", "Glass")
    assert np.unique(rasterise(index.images[0], 255, background=False)).tolist() == [0, 255]


def test_a_category_for_the_background_is_class_zero_or_refused(two_images: Path) -> None:
    categories = [{"id": 1, "name": "Glass"}, {"id": 2, "name": "background"}]
    train = coco([image(1, "a.jpg")], [annotation(1, 1, 2), annotation(2, 1, 1)], categories=categories)
    index = read(card_of(two_images, train=train))
    assert index.classes == ("Background", "Glass")
    assert index.images[0].annotations[0].class_index == 0
    categories[1]["name"] = "Background"
    assert "set background: true" in problems(card_of(two_images, "background: false", train=train))[0]


def test_files_may_share_integer_ids_and_number_categories_differently(two_images: Path) -> None:
    train = coco([image(1, "a.jpg")], [annotation(1, 1, 0)])
    turned = [{"id": 1, "name": "Glass"}, {"id": 2, "name": "void"}, {"id": 9, "name": "Paper"}]
    val = coco([image(1, "b.jpg")], [annotation(1, 1, 9)], categories=turned)
    index = read(card_of(two_images, train=train, val=val))
    assert [each.annotations[0].class_index for each in index.images] == [1, 1]
    assert [each.role for each in index.images] == ["train", "val"]


def test_unlabelled_needs_no_annotations(two_images: Path) -> None:
    train = coco([image(1, "a.jpg")], [annotation(1, 1, 0)])
    index = read(card_of(two_images, train=train, unlabelled={"images": [image(1, "b.jpg")]}))
    assert index.ids("unlabelled") == ("b.jpg",)


def test_every_problem_of_every_file_is_reported_at_once(two_images: Path) -> None:
    picture(two_images / "c.jpg", quality=95)
    whole = (two_images / "c.jpg").read_bytes()
    (two_images / "c.jpg").write_bytes(whole[: len(whole) // 2])
    (two_images / "d.png").write_text("no picture")
    (two_images / "out.jpg").symlink_to(Path("/etc/hostname"))
    names = ["a.jpg", "a.jpg", "c.jpg", "d.png", "missing.jpg", "../x.jpg", "/etc/x.jpg", "out.jpg"]
    images = [image(key, name) for key, name in enumerate(names)]
    images += [image(8, "b.jpg", width=99), image(8, "b.jpg"), image(9, "e.jpg", height=0)]
    broken = [annotation(1, 77, 0), annotation(2, 0, 99), annotation(2, 0, 0), annotation(3, 0, 0, [])]
    broken += [annotation(4, 0, 0, [[1, 2, 3, 4, 5, 6, 7]])]
    broken += [annotation(5, 0, 0, {"size": [24, 32], "counts": [3, 5]})]
    val = coco([image(1, "a.jpg")], [], categories=[{"id": 0, "name": "Papre"}])
    found = "\n".join(problems(card_of(two_images, "ignore: [viod]", train=coco(images, broken), val=val)))
    expected = [
        "ignore names 'viod', which is no category of train; did you mean 'void'?",
        "category 'Papre' is in val and not in train; did you mean 'Paper'?",
        "category 'Glass' is in train and not in val",
        "train.json: image a.jpg: the same file is train.json: image a.jpg",
        "val.json: image a.jpg: the same file is train.json: image a.jpg",
        "train.json: image 5 (../x.jpg): file_name leaves the folder",
        "train.json: image 6 (/etc/x.jpg): file_name must be relative to",
        "train.json: image 7 (out.jpg): file_name is a link that leads out of",
        "val: val.json has no annotation of any class",
        "train.json: image 8: the id is missing or there twice",
        "train.json: image 9 (e.jpg): needs a height and a width",
        "train.json: annotation 1: unknown image 77",
        "train.json: annotation 2: unknown category 99",
        "train.json: annotation 2: the id is missing, no whole number or there twice",
        "train.json: annotation 3 (a.jpg): segmentation is empty",
        "train.json: annotation 4 (a.jpg): a polygon needs an even number of coordinates, got 7",
        "train.json: annotation 5 (a.jpg): an RLE's runs must add up to H * W = 768, got 8",
        "train.json: image c.jpg: the file is cut short",
        "train.json: image d.png: the file cannot be read as an image",
        "train.json: image missing.jpg: no file at",
        "train.json: image b.jpg: the JSON says 99 x 24 px, the file has 32 x 24 px",
    ]
    assert [line for line in expected if line not in found] == []
    assert len(found.splitlines()) == len(expected) + 2  # 'Paper' and 'void' are not in val either


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{broken", "is not valid JSON"),
        ("[]", "is not COCO"),
        ('{"images": [3]}', "'images'"),
        (None, "cannot be read"),
    ],
)
def test_a_file_that_is_not_coco_is_one_message(two_images: Path, content: str | None, message: str) -> None:
    card = card_of(two_images, train=coco([], []))
    (two_images / "train.json").unlink()
    if content is not None:
        (two_images / "train.json").write_text(content)
    found = problems(card)
    assert len(found) == 1
    assert found[0].startswith("train.json: ")
    assert message in found[0]


def test_degenerate_polygons_are_counted_and_do_not_stop(two_images: Path) -> None:
    thin = [annotation(4, 1, 0, [[1, 1, 5, 5]]), annotation(5, 1, 0, [[1, 1, 5, 5, 9, 9]])]
    far = annotation(6, 1, 0, [[50, 50, 60, 50, 60, 60]])
    index = read(card_of(two_images, train=coco([image(1, "a.jpg")], [*thin, far])))
    assert index.warnings == {
        "train.json: polygon of fewer than 3 points, left out (4)": 1,
        "train.json: polygon without area (5)": 1,
        "train.json: polygon wholly outside the image, paints nothing (6)": 1,
    }


def test_a_missing_area_is_taken_from_the_mask(two_images: Path) -> None:
    entry = annotation(1, 1, 0)
    del entry["area"]
    index = read(card_of(two_images, train=coco([image(1, "a.jpg")], [entry])))
    assert index.images[0].annotations[0].area == 64.0
    assert list(index.warnings.values()) == [1]


@pytest.mark.parametrize(("orientation", "size"), [(3, (24, 32)), (6, (24, 32)), (6, (32, 24))])
def test_exif_orientation_is_not_applied(two_images: Path, orientation: int, size: tuple[int, int]) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture(two_images / "turned.jpg", exif=exif)
    card = card_of(
        two_images, train=coco([image(1, "turned.jpg", height=size[0], width=size[1])], [annotation(1, 1, 0)])
    )
    if size == (24, 32):
        assert list(read(card).warnings) == ["train.json: image with an EXIF orientation, not applied (turned.jpg)"]
    else:
        assert "save it with its EXIF orientation applied" in problems(card)[0]


def test_the_fingerprint_follows_content_and_rules_but_not_the_place(tmp_path: Path) -> None:
    def fingerprint(folder: str, rules: str = "", seed_byte: bytes = b"") -> str:
        picture(tmp_path / folder / "a.jpg")
        with (tmp_path / folder / "a.jpg").open("ab") as file:
            file.write(seed_byte)
        train = coco([image(1, "a.jpg")], [annotation(1, 1, 0)])
        return read(card_of(tmp_path / folder, rules, train=train)).fingerprint

    first = fingerprint("one")
    assert fingerprint("two") == first
    assert len({first, fingerprint("three", "background: false"), fingerprint("four", seed_byte=b"x")}) == 3


def test_groups_come_from_the_file_name(two_images: Path) -> None:
    card = card_of(
        two_images, "group: '^(a)'", train=coco([image(1, "a.jpg"), image(2, "b.jpg")], [annotation(1, 1, 0)])
    )
    index = read(card)
    assert [each.group for each in index.images] == ["a", "b.jpg"]
    assert index.grouped
    assert sum(index.warnings.values()) == 1


@pytest.mark.parametrize(("name", "num_classes"), [("trash_sample", 11), ("camvid", 11)])
def test_the_real_sets_read_without_a_finding(shared_data: Path, name: str, num_classes: int) -> None:
    index = read(read_card(shared_data / name / "data.yaml"))
    assert index.num_classes == num_classes
    assert not index.warnings
    assert index.licences
