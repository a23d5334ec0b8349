"""Names to files: a folder per file, links, and a reason for every file that is not there."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from mask_sets import card, made_label, write_coco, write_images

from trainables.data.card import DataProblems, read_card
from trainables.data.image_folder import ImageFolder, images_under
from trainables.data.index import SegIndex
from trainables.data.reader import read


def read_text(root: Path, text: str) -> SegIndex:
    return read(read_card(card(root, "data.yaml", text)))


def problems(root: Path, text: str) -> list[str]:
    with pytest.raises(DataProblems) as caught:
        read_text(root, text)
    return caught.value.problems


def coco_of(path: Path, *names: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_coco(path, {name: made_label(n) for n, name in enumerate(names)})
    return path


def test_a_folder_per_file_and_a_list_of_files(tmp_path: Path) -> None:
    write_images(tmp_path, ["train2017/1.jpg", "extra/1.jpg", "val2017/1.jpg"])
    for part in ("train", "extra", "val"):
        coco_of(tmp_path / f"annotations/{part}.json", "1.jpg")
    index = read_text(
        tmp_path,
        "train: [{coco: annotations/train.json, images: train2017}, {coco: annotations/extra.json, images: extra}]\n"
        "val: {coco: annotations/val.json, images: val2017}\n",
    )
    assert index.ids("train") == ("train2017/1.jpg", "extra/1.jpg")
    assert index.ids("val") == ("val2017/1.jpg",)


def test_images_beside_their_file_are_found_there(tmp_path: Path) -> None:
    write_images(tmp_path, ["train/1.jpg", "valid/1.jpg"])
    for part in ("train", "valid"):
        coco_of(tmp_path / part / "_annotations.coco.json", "1.jpg")
    index = read_text(tmp_path, "train: train/_annotations.coco.json\nval: valid/_annotations.coco.json\n")
    assert [record.image_id for record in index.images] == ["train/1.jpg", "valid/1.jpg"]


def test_the_folder_makes_ids_and_so_is_part_of_the_fingerprint(tmp_path: Path) -> None:
    def fingerprint(folder: str) -> str:
        write_images(tmp_path, [f"{folder}/1.jpg"])
        coco_of(tmp_path / "train.json", "1.jpg")
        return read_text(tmp_path, f"train: {{coco: train.json, images: {folder}}}\n").fingerprint

    assert len({fingerprint("a"), fingerprint("b"), fingerprint("a")}) == 2


def test_two_folders_of_one_name_outside_the_root_are_told_apart(tmp_path: Path) -> None:
    write_images(tmp_path, ["x/images/1.jpg", "y/images/1.jpg"])
    (tmp_path / "root").mkdir()
    parts = [f"{{coco: {coco_of(tmp_path / f'{n}.json', '1.jpg')}, images: {tmp_path / n / 'images'}}}" for n in "xy"]
    (line,) = problems(tmp_path / "root", f"train: [{', '.join(parts)}]\n")
    assert "image images/1.jpg: another file of that name is" in line
    assert "put both folders under one root" in line


def test_other_categories_of_a_second_file_are_named_by_file(tmp_path: Path) -> None:
    write_images(tmp_path, ["1.jpg", "2.jpg"])
    coco_of(tmp_path / "a.json", "1.jpg")
    content = json.loads(coco_of(tmp_path / "b.json", "2.jpg").read_text())
    content["categories"][0]["name"] = "papier"
    (tmp_path / "b.json").write_text(json.dumps(content))
    assert problems(tmp_path, "train: [a.json, b.json]\n") == [
        "category 'papier' is in b.json and not in a.json; did you mean 'paper'?",
        "category 'paper' is in a.json and not in b.json; did you mean 'papier'?",
    ]


def test_links_that_leave_the_root_need_a_word_in_the_card(tmp_path: Path) -> None:
    root = tmp_path / "root"
    write_images(tmp_path / "store", ["a.jpg"])
    (root / "images").mkdir(parents=True)
    for name in ("1.jpg", "2.jpg"):  # a store keeps equal files once
        (root / "images" / name).symlink_to(tmp_path / "store" / "a.jpg")
    coco_of(root / "train.json", "images/1.jpg", "images/2.jpg")
    first, _ = problems(root, "train: train.json\n")
    assert "set follow_links: true in the card" in first
    assert read_text(root, "train: train.json\nfollow_links: true\n").ids("train") == ("images/1.jpg", "images/2.jpg")
    (tmp_path / "store" / "a.jpg").unlink()
    first, _ = problems(root, "train: train.json\nfollow_links: true\n")
    assert "which is not there; fetch it (dvc pull, git annex get)" in first


@pytest.mark.parametrize(
    ("there", "asked", "message"),
    [
        ("images/a.JPG", "images/a.jpg", "but 'images/a.JPG', which differs in upper and lower case"),
        ("images/b\u00e9.jpg", "images/be\u0301.jpg", "which differs in its Unicode form"),
        ("images/a.jpg", "images\\a.jpg", "the folders of 'images/a.jpg' are parted by backslashes; write /"),
        ("images/a.jpg", "a.jpg", "but 'images/a.jpg'; where the names of a file lack their folder, say so in the "
         "card: {coco: ..., images: images}"),
        ("images/a.jpeg", "images/a.jpg", "but 'images/a.jpeg' with another suffix"),
        ("images/a b.jpg", "images/a%20b.jpg", "which differs in spaces or escaped characters"),
        ("images/a.jpg", "images", "a folder and no file at"),
        ("images/a.jpg", "images/b.jpg", "no file at"),
    ],
)  # fmt: skip
def test_the_nearest_file_is_named(tmp_path: Path, there: str, asked: str, message: str) -> None:
    write_images(tmp_path, ["real.jpg"])
    path = tmp_path / there
    path.parent.mkdir()
    (tmp_path / "real.jpg").rename(path)
    coco_of(tmp_path / "train.json", asked)
    (line,) = problems(tmp_path, "train: train.json\n")
    assert message in line
    assert unicodedata.is_normalized("NFC", there)


def test_an_absolute_name_is_told_what_to_write(tmp_path: Path) -> None:
    write_images(tmp_path, ["images/a.jpg"])
    coco_of(tmp_path / "train.json", str(tmp_path / "images" / "a.jpg"), "C:\\images\\a.jpg", "../a.jpg", "a" * 300)
    found = problems(tmp_path, "train: train.json\n")
    expected = ["absolute path; write 'images/a.jpg'", "absolute path; move", "leaves the folder", "255 between"]
    assert all(text in line for text, line in zip(expected, found, strict=True))


def test_hidden_files_and_loops_of_links_are_passed_over(tmp_path: Path) -> None:
    write_images(tmp_path, ["a.jpg", "sub/b.PNG", ".git/c.jpg"])
    (tmp_path / "._a.jpg").write_bytes(b"AppleDouble")
    (tmp_path / "sub" / "up").symlink_to(tmp_path)
    (tmp_path / "notes.txt").touch()
    for follow_links in (False, True):
        assert images_under(tmp_path, follow_links=follow_links) == (["a.jpg", "sub/b.PNG"], ["notes.txt"])


def test_float_ids_and_sizes_are_whole_numbers(tmp_path: Path) -> None:
    write_images(tmp_path, ["a.jpg"])
    content: Any = json.loads(coco_of(tmp_path / "train.json", "a.jpg").read_text())
    for entry in (*content["images"], *content["annotations"], *content["categories"]):
        entry |= {key: float(value) for key, value in entry.items() if isinstance(value, int) and key != "iscrowd"}
    (tmp_path / "train.json").write_bytes(b"\xef\xbb\xbf" + json.dumps(content).encode())  # and a BOM
    (tmp_path / "windows.yaml").write_bytes(b"\xef\xbb\xbftrain: train.json\r\nbackground: true\r\n")
    index = read(read_card(tmp_path / "windows.yaml"))
    assert [type(each.annotation_id) for each in index.images[0].annotations] == [int, int]
    content["annotations"][0]["id"] = 0.5
    (tmp_path / "train.json").write_text(json.dumps(content))
    assert (
        "annotation 0.5: the id is missing, no whole number or there twice"
        in problems(tmp_path, "train: train.json\n")[0]
    )


def test_a_name_is_unique_by_its_folder(tmp_path: Path) -> None:
    assert ImageFolder(tmp_path / "train2017", tmp_path).image_id("1.jpg") == "train2017/1.jpg"
    assert ImageFolder(tmp_path, tmp_path).image_id("1.jpg") == "1.jpg"
    assert ImageFolder(Path("/elsewhere/val"), tmp_path).image_id("1.jpg") == "val/1.jpg"


def test_half_a_surrogate_pair_names_no_file(tmp_path: Path) -> None:
    coco_of(tmp_path / "train.json", "\ud800.jpg")
    (line,) = problems(tmp_path, "train: train.json\n")
    assert "half a surrogate pair" in line
