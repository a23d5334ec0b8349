"""Inputs of prediction: what is found, in which order, and what is refused."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from analysis.prediction import archive as archives
from analysis.prediction.inputs import open_inputs
from trainables.data.card import DataProblems


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Four images whose first pixel is their number, and a text file."""
    folder = tmp_path / "photos"
    for number, name in enumerate(("a.png", "b/c.png", "b/d.png", "e.png")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((4, 5, 3), number, np.uint8)).save(folder / name)
    (folder / "notes.txt").write_text("no image", encoding="utf-8")
    return folder


def zipped(folder: Path, path: Path) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(folder.rglob("*.*")):
            archive.write(file, file.relative_to(folder).as_posix())
        archive.writestr("__MACOSX/._a.png", b"resource fork")
    return path


def coco(path: Path, names: list[object]) -> Path:
    path.write_text(json.dumps({"images": [{"id": n, "file_name": name} for n, name in enumerate(names)]}))
    return path


def found(*texts: object, out: Path = Path("/nowhere/out"), folder: Path | None = None) -> dict[str, int]:
    """Name -> number of each image, as it is read."""
    with open_inputs([str(text) for text in texts], out, coco_images=folder) as result:
        return {image.name: int(image.read().pixels[0, 0, 0]) for image in result.images}


ALL = {"a.png": 0, "b/c.png": 1, "b/d.png": 2, "e.png": 3}


def test_a_folder_and_a_zip_of_it_hold_the_same(photos: Path, tmp_path: Path) -> None:
    assert found(photos) == found(zipped(photos, tmp_path / "photos.zip")) == ALL


def test_the_other_files_are_named(photos: Path, tmp_path: Path) -> None:
    for source in (photos, zipped(photos, tmp_path / "photos.zip")):
        with open_inputs([str(source)], tmp_path / "out") as result:
            assert result.others == ["notes.txt"]


def test_a_coco_file_gives_its_own_order(photos: Path, tmp_path: Path) -> None:
    names = ["e.png", "b/d.png", "a.png"]
    assert list(found(coco(photos / "test.json", names)).items()) == [("e.png", 3), ("b/d.png", 2), ("a.png", 0)]
    assert list(found(coco(tmp_path / "test.json", names), folder=photos)) == names


def test_files_patterns_and_doubles(photos: Path) -> None:
    assert found(f"{photos}/*.png", photos / "a.png") == {"a.png": 0, "e.png": 3}
    assert found(f"{photos}/**/*.png") == ALL
    assert found(f"{photos}/b/[d-f].png") == {"d.png": 2}


def test_several_inputs_keep_names_apart(photos: Path, tmp_path: Path) -> None:
    archive = zipped(photos / "b", tmp_path / "more.zip")
    names = list(found(photos, archive, photos / "e.png"))
    assert names == [*(f"photos/{name}" for name in ALL), "more/c.png", "more/d.png", "e.png"]


@pytest.mark.parametrize("name", ["../a.png", "/a.png", "b/../../a.png", "..\\a.png", "C:\\a.png"])
def test_names_that_lead_out_of_the_root_are_refused(photos: Path, tmp_path: Path, name: str) -> None:
    with zipfile.ZipFile(tmp_path / "evil.zip", "w") as archive:
        archive.writestr(name, (photos / "a.png").read_bytes())
    with pytest.raises(DataProblems, match="must lie inside the archive"):
        found(tmp_path / "evil.zip")
    with pytest.raises(DataProblems, match="file_name"):
        found(coco(photos / "b" / "evil.json", [name]))


def test_a_link_in_a_zip_is_not_followed(photos: Path, tmp_path: Path) -> None:
    link = zipfile.ZipInfo("link.png")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "link.zip", "w") as archive:
        archive.writestr(link, str(photos / "a.png"))
    with pytest.raises(ValueError, match=r"link\.zip/link\.png: the file cannot be read as an image"):
        found(tmp_path / "link.zip")


def test_a_member_is_read_to_a_bound(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb.png", bytes(100_000))
    monkeypatch.setattr(archives, "MAX_MEMBER_BYTES", 50_000)
    with pytest.raises(DataProblems, match="at most 50000 bytes, got 100000"):
        found(tmp_path / "bomb.zip")


def test_a_member_that_lies_about_its_size_cannot_be_read(photos: Path, tmp_path: Path) -> None:
    path = tmp_path / "liar.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.png", (photos / "a.png").read_bytes())
        size = archive.infolist()[0].file_size
    path.write_bytes(path.read_bytes().replace(size.to_bytes(4, "little"), (size - 9).to_bytes(4, "little")))
    with pytest.raises(ValueError, match=r"liar\.zip/a\.png"):
        found(path)


def test_all_that_is_wrong_is_said_at_once(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.zip").write_bytes(b"PK no zip")
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "empty").mkdir()
    lacking = coco(photos / "lacking.json", ["a.png", "none.png", 7])
    texts = [tmp_path / "no.jpg", tmp_path / "broken.zip", tmp_path / "broken.json", tmp_path / "empty", lacking]
    with pytest.raises(DataProblems) as raised:
        found(*texts, f"{photos}/*.tif")
    said = str(raised.value)
    for words in (
        "no.jpg, which is not there", "must be a zip archive", "broken.json must be JSON", "at least one image",
        "image 1: no file at", "image 2 needs a file_name", "pattern must match",
    ):  # fmt: skip
        assert words in said, words


def test_two_images_of_one_name_and_out_among_the_images_are_refused(photos: Path) -> None:
    (photos / "c.png").write_bytes((photos / "a.png").read_bytes())
    with pytest.raises(DataProblems, match=r"two images must not have one name, got c\.png"):
        found(photos / "c.png", photos / "b" / "c.png")
    with pytest.raises(DataProblems, match="--out must lie outside the images"):
        found(photos, out=photos / "out")
    with pytest.raises(DataProblems, match="--out must lie outside the images"):
        found(f"{photos}/**/*.png", out=photos / "b")
