"""A card that points at what others export is told what it looks like, and the command or the way from there."""

from __future__ import annotations

from pathlib import Path

import pytest
from foreign_sets import labelme_shape, rectangle, write_labelme
from mask_sets import card, write_images

from analysis.conversion.readers import READERS
from trainables.data.card import DataProblems, read_card
from trainables.data.foreign_formats import FOLDERS, FORMATS, foreign_hint
from trainables.data.reader import read


def said_of(root: Path, text: str) -> str:
    with pytest.raises((DataProblems, ValueError)) as caught:
        read(read_card(card(root, "card.yaml", text)))
    return str(caught.value)


def write(root: Path, name: str, text: str) -> None:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(text)


@pytest.fixture
def exports(tmp_path: Path) -> Path:
    """One folder per format, with what such a set has."""
    write_images(tmp_path, ["labelme/a.jpg", "yolo/images/a.jpg", "photos/a.jpg"])
    write_labelme(tmp_path / "labelme/a.json", "a.jpg", [labelme_shape("paper", rectangle(1, 1, 9, 9))])
    write(tmp_path, "cvat/annotations.xml", "<?xml version='1.0'?><annotations><version>1.1</version><image/>")
    write(tmp_path, "voc/Annotations/a.xml", "<annotation><folder/><object/></annotation>")
    write(tmp_path, "voc/SegmentationClass/.keep", "")
    write(tmp_path, "yolo/labels/a.txt", "0 0.1 0.1 0.5 0.1 0.5 0.5\n")
    write(tmp_path, "yolo/data.yaml", "train: images\nval: images\nnc: 1\nnames: [paper]\n")
    write(tmp_path, "city/gtFine/train/x/x_gtFine_polygons.json", '{"imgHeight": 1, "imgWidth": 1, "objects": []}')
    write(tmp_path, "kaggle/train.csv", "ImageId,EncodedPixels\na,1 5\n")
    write(tmp_path, "hub/train.parquet", "PAR1")
    write(tmp_path, "hub/all.zip", "PK")
    return tmp_path


@pytest.mark.parametrize(
    ("place", "kind", "folder"),
    [
        ("labelme/a.json", "labelme", "labelme"),
        ("labelme", "labelme", "labelme"),
        ("cvat/annotations.xml", "cvat", "cvat"),
        ("cvat", "cvat", "cvat"),
        ("voc/Annotations/a.xml", "voc", "voc"),
        ("voc/Annotations", "voc", "voc"),
        ("voc", "voc", "voc"),
        ("yolo/labels", "yolo", "yolo"),
        ("yolo/labels/a.txt", "yolo", "yolo"),
        ("yolo/data.yaml", "yolo", "yolo"),
        ("city", "cityscapes", "city"),
        ("city/gtFine/train/x/x_gtFine_polygons.json", "cityscapes", "city"),
    ],
)
def test_what_can_be_converted_comes_with_its_command(exports: Path, place: str, kind: str, folder: str) -> None:
    command = f"segsearch convert --from {kind} {exports / folder} --out {exports / folder}-coco"
    assert command in said_of(exports, f"train: {place}\n")
    if "." not in Path(place).name:
        assert command in said_of(exports, f"train: {{images: photos, masks: {place}}}\nclasses: [background, a]\n")


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("kaggle/train.csv", "a table such as Kaggle's"),
        ("kaggle", "a table such as Kaggle's"),
        ("hub/train.parquet", "Parquet or Arrow"),
        ("hub/all.zip", "an archive: unpack it"),
        ("nvidia/trash-v1.2", "hf download nvidia/trash-v1.2 --repo-type dataset"),
        ("hf://datasets/nvidia/trash/data", "hf download nvidia/trash --repo-type"),
        ("https://huggingface.co/datasets/nvidia/trash", "hf download nvidia/trash --repo-type"),
        ("s3://bucket/train.json", "looks like an address"),
    ],
)
def test_everything_else_comes_with_a_way(exports: Path, place: str, message: str) -> None:
    assert message in said_of(exports, f"train: {place}\n")
    assert message in said_of(exports, f"train: {{images: {place}, masks: labelme}}\nclasses: [background, a]\n")


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("yolo/data.yaml", "yolo"),
        ("cvat/annotations.xml", "cvat"),
        ("labelme", "labelme"),
        ("labelme/a.json", "labelme"),
    ],
)
def test_an_export_in_place_of_a_card(exports: Path, name: str, kind: str) -> None:
    with pytest.raises(ValueError, match=f"segsearch convert --from {kind} {exports / Path(name).parts[0]} "):
        read_card(exports / name)


def test_names_in_place_of_a_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="hf download nvidia/trash"):
        read_card(Path("nvidia/trash"))


@pytest.mark.parametrize("place", ["train.json", "annotations/train.json", "photos/none", "notes.txt", "photos"])
def test_nothing_is_guessed_of_the_rest(exports: Path, place: str) -> None:
    write(exports, "notes.txt", "1\n2\n3\n4\n5\n6\n")
    assert "looks like" not in said_of(exports, f"train: {place}\n")


def test_a_path_that_cannot_be_looked_at_says_so_itself(tmp_path: Path) -> None:
    assert "a path must have at most 3500 bytes" in said_of(tmp_path, f"train: {'x' * 5000}/y\n")


def test_every_command_that_is_named_exists() -> None:
    named = {each.convert for each in FORMATS if each.convert} | set(FOLDERS.values())
    assert named == set(READERS)
    assert all(bool(each.convert) != bool(each.remedy) for each in FORMATS)


def test_folders_with_spaces_are_quoted(tmp_path: Path) -> None:
    write(tmp_path, "my set/annotations.xml", "<annotations><image/>")
    assert f"--from cvat '{tmp_path}/my set' --out '{tmp_path}/my set-coco'" in foreign_hint(tmp_path / "my set", "x")
