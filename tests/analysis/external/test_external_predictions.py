"""What other tools save: shapes that do not cover the image, other classes, broken files; each named by its path."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from factories import make_header, make_store
from safetensors.numpy import save_file

from analysis.external.predictions import ExternalPrediction, names_of, read_folder

CLASSES = ("Background", "road", "car")
SIZE_PX = (60, 100)
LOGITS = np.random.default_rng(0).normal(size=(3, *SIZE_PX)).astype(np.float32)


def found(folder: Path, say: Callable[[str], None] = lambda _: None) -> list[ExternalPrediction]:
    return list(read_folder(folder, CLASSES, names_of(["a.png", "b.png"]), lambda _: SIZE_PX, say=say))


def member(folder: Path, array: Any = LOGITS, **files: object) -> Path:
    np.save(folder / "a.npy", array)
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content), encoding="utf-8-sig")
    return folder


@pytest.mark.parametrize("shape", [(60, 100), (30, 50), (15, 25), (8, 13), (7, 12), (2, 4), (61, 100)])
def test_an_array_at_any_stride_is_taken(tmp_path: Path, shape: tuple[int, int]) -> None:
    assert found(member(tmp_path, np.zeros((3, *shape))))[0].logits.shape == (3, *shape)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((100, 60), "an image on its side: the label is 60 x 100 .height x width.; exchange its last two axes"),
        ((25, 15), "an image on its side"),
        ((100, 100), "cut off the padding"),
        ((64, 128), "cut off the padding"),
        ((32, 32), "a padded or a squeezed one"),
    ],
)
def test_a_shape_that_does_not_cover_the_image_is_refused(tmp_path: Path, shape: tuple[int, int], message: str) -> None:
    with pytest.raises(ValueError, match=rf"a\.npy: image 'a\.png' is .*{message}"):
        found(member(tmp_path, np.zeros((3, *shape))))


def test_a_store_of_images_of_another_size_is_refused(tmp_path: Path) -> None:
    make_store(tmp_path, make_header(classes=CLASSES), {"a.png": LOGITS}, (100, 60))
    with pytest.raises(ValueError, match=r"image 'a.png' was predicted at 100 x 60 px, its label has 60 x 100"):
        found(tmp_path)


@pytest.mark.parametrize(
    "labels",
    [
        {"background": 0, "car": 1, "road": 2},
        {"0": "background", "1": "car", "2": "road"},
        {"background": 0, "car": [1], "road": [2], "ignore": 3},
    ],
)
def test_class_names_of_both_nnunets_put_channels_in_order(tmp_path: Path, labels: dict[str, Any]) -> None:
    [one] = found(member(tmp_path, dataset={"labels": labels}))
    np.testing.assert_allclose(one.logits[1] - one.logits[2], LOGITS[2] - LOGITS[1], atol=1e-5)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"dataset": {"labels": {"0": "background", "1": "lorry", "2": "road"}}}, "lacks car and has besides lorry"),
        ({"dataset": {"labels": {"background": 0, "car": [1, 2], "road": 2}}}, "dataset.json: .*regions .*car"),
        ({"dataset": {"labels": {"background": 0, "car": 1, "road": 3}}}, "dataset.json: values .* 0, 1, 2"),
        ({"dataset": {"labels": []}}, "dataset.json: labels must map"),
        ({"classes": {"a": 0}}, "classes.json: class names must be a list"),
        ({"classes": ["road", "road", "car"]}, "classes.json: class names must differ"),
    ],
)
def test_other_classes_and_regions_are_refused(tmp_path: Path, files: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        found(member(tmp_path, **files))


def test_class_names_inside_a_file_are_believed_first(tmp_path: Path) -> None:
    metadata = {"classes": json.dumps([CLASSES[0], CLASSES[2], CLASSES[1]])}
    save_file({"probabilities": LOGITS}, tmp_path / "a.safetensors", metadata=metadata)
    np.savez(tmp_path / "b.npz", logits=LOGITS, classes=np.array(["Background", "car", "road"]))
    for one in found(tmp_path):
        np.testing.assert_allclose(one.logits[1] - one.logits[2], LOGITS[2] - LOGITS[1], atol=1e-5)


@pytest.mark.parametrize(
    ("name", "write", "message"),
    [
        ("a.npy", lambda p: np.save(p, np.array([{}], object)), "a.npy cannot be read .*Python objects"),
        ("a.npz", lambda p: np.savez(p, logits=np.array([{}], object)), "a.npz cannot be read .*Python objects"),
        ("a.npz", lambda p: np.savez(p), "a.npz cannot be read"),
        ("a.npy", lambda p: p.write_bytes(b"no array"), "a.npy cannot be read"),
        ("a.npy", lambda p: p.write_bytes(b""), "a.npy cannot be read"),
        ("a.npz", lambda p: p.write_bytes(b"PK\x03\x04 no zip"), "a.npz cannot be read"),
        ("a.safetensors", lambda p: p.write_bytes(b"\xff" * 9), "a.safetensors cannot be read"),
        ("a.npy", lambda p: np.save(p, np.array([["x"]])), "a.npy: image 'a.png' must hold numbers"),
        ("classes.json", lambda p: (member(p.parent), p.write_text("{broken")), "classes.json cannot be read as JSON"),
    ],
)
def test_a_broken_file_is_named(tmp_path: Path, name: str, write: Callable[[Path], object], message: str) -> None:
    write(tmp_path / name)
    with pytest.raises(ValueError, match=message):
        found(tmp_path)


def test_byte_order_marks_are_read_over_and_hidden_files_named(tmp_path: Path) -> None:
    np.save(tmp_path / "all.npy", np.stack([LOGITS, LOGITS]))
    (tmp_path / "all.txt").write_text("a\r\nb\r\n", encoding="utf-8-sig")
    (tmp_path / "._all.npy").write_bytes(b"\0\5\x16\7")
    said: list[str] = []
    assert [one.image_id for one in found(tmp_path, said.append)] == ["a.png", "b.png"]
    assert len(said) == 1
    assert said[0].endswith("hidden files are passed over (._all.npy): 1")
