"""The COCO reader: what it accepts, and that it finds every problem at once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from trainables.data.card import DataCard, DataProblems, read_card
from trainables.data.mask_sizes import FRACTIONS
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
    val = coco([image(1, "a.jpg")], [annotation(1, 1, 0)], categories=[{"id": 0, "name": "Papre"}])
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
    thin = [annotation(3, 1, 0), annotation(4, 1, 0, [[1, 1, 5, 5]]), annotation(5, 1, 0, [[1, 1, 1.2, 1, 1, 1]])]
    far = annotation(6, 1, 0, [[50, 50, 60, 50, 60, 60]])
    index = read(card_of(two_images, train=coco([image(1, "a.jpg")], [*thin, far])))
    assert index.warnings == {
        "train.json: polygon of fewer than 3 points, left out (4)": 1,
        "train.json: polygon without area (5)": 1,
        "train.json: polygon wholly outside the image, paints nothing (6)": 1,
        "train.json: annotation that paints no pixel (4, 5, 6)": 3,
    }


@pytest.mark.parametrize(
    ("area", "warned"), [(0, 1), (-64.0, 1), (768, 1), (10**400, 1), (None, 0), (True, 0), (49.0, 0)]
)
def test_the_area_is_that_of_the_mask(two_images: Path, area: object, warned: int) -> None:
    whole = annotation(2, 1, 7, [[0, 0, 32, 0, 32, 24, 0, 24]]) | {"area": 768}
    train = coco([image(1, "a.jpg")], [annotation(1, 1, 0) | {"area": area}, whole])
    index = read(card_of(two_images, train=train))
    assert [each.area for each in index.images[0].annotations] == [64, 768]
    assert (rasterise(index.images[0], 255) == 1).sum() == 64  # painted last, whatever the JSON claims
    assert sum(index.warnings.values()) == warned
    assert all("area differs from the mask" in rule for rule in index.warnings)


def test_polygons_in_shares_of_the_image_are_warned_of_and_refused_where_all_are(two_images: Path) -> None:
    shares = annotation(1, 1, 0, [[0.1, 0.1, 0.9, 0.1, 0.9, 0.8]])
    index = read(card_of(two_images, train=coco([image(1, "a.jpg")], [shares, annotation(2, 1, 0)])))
    assert list(index.warnings) == [f"train.json: {FRACTIONS} (1)"]
    tiny = annotation(2, 1, 0, [[5.1, 5.1, 5.2, 5.1, 5.2, 5.2]])
    train = coco([image(1, "a.jpg")], [shares, tiny])
    assert "none of its 2 annotations paints more than the first pixel" in problems(card_of(two_images, train=train))[0]


def test_sizes_that_only_the_json_claims_are_never_painted(two_images: Path) -> None:
    huge = {"size": [10**9, 10**9], "counts": [0, 10**18]}
    train = coco([image(1, "a.jpg", height=10**9, width=10**9)], [annotation(1, 1, 0, huge)])
    found = problems(card_of(two_images, train=train))
    assert "annotation 1 (a.jpg): an image must have at most 2147483647 px" in found[0]
    assert "the JSON says 1000000000 x 1000000000 px, the file has 32 x 24 px" in found[1]


def test_a_root_category_is_no_class_unless_it_is_used(two_images: Path) -> None:
    tree = [{"id": 0, "name": "trash", "supercategory": "none"}]
    tree += [{"id": k, "name": n, "supercategory": "trash"} for k, n in ((1, "Paper"), (2, "Glass"))]
    train = coco([image(1, "a.jpg")], [annotation(1, 1, 2)], categories=tree)
    val = coco([image(1, "b.jpg")], [annotation(1, 1, 1)], categories=tree[1:])
    index = read(card_of(two_images, train=train, val=val))
    assert index.classes == ("Background", "Paper", "Glass")
    assert list(index.warnings) == ["train.json: supercategory of others without an annotation, no class (trash)"]
    train["annotations"].append(annotation(2, 1, 0))
    assert "category 'trash' is in train and not in val" in problems(card_of(two_images, train=train, val=val))[0]


def test_the_background_of_a_labelling_tool_is_class_zero(two_images: Path) -> None:
    categories = [{"id": 0, "name": "_background_"}, {"id": 1, "name": "Glass"}]
    train = coco([image(1, "a.jpg")], [annotation(1, 1, 1)], categories=categories)
    assert read(card_of(two_images, train=train)).classes == ("Background", "Glass")


@pytest.mark.parametrize(
    ("rules", "remedy"), [("background: false", "set background: true"), ("", "got 1 (Background)")]
)
def test_a_data_set_of_one_class_is_refused(two_images: Path, rules: str, remedy: str) -> None:
    categories = [{"id": 1, "name": "road" if rules else "background"}]
    train = coco([image(1, "a.jpg")], [annotation(1, 1, 1)], categories=categories)
    assert remedy in problems(card_of(two_images, rules, train=train))[0]


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
