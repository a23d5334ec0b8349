"""One contract for every writer of predictions; what it wrote is read by other libraries than its own."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from factories import files_of
from PIL import Image
from pycocotools.coco import COCO
from safetensors.numpy import load_file

from analysis.prediction.job import CsvLayout, Format
from analysis.prediction.writers import JPEG_QUALITY, WRITERS, Labelling, Writer, overlay
from analysis.report.palette import palette

CLASSES = ("Background", "Paper", "Glass", "Ünused <b>")
SIZES = {"a.png": (5, 7), "b/c.d.jpeg": (1, 1), "b/e/f.tif": (9, 4)}
IMAGES = {
    name: np.random.default_rng(n).integers(0, 256, (*size, 3), np.uint8)
    for n, (name, size) in enumerate(SIZES.items())
}
LAYOUT = CsvLayout(height_px=45, width_px=28)  # multiples of all sizes: a pixel of each cell is the label's own


class Predictions:
    """Stands in for a predictor: probabilities that the seed and the image's name decide."""

    def __init__(self, seed: int = 0) -> None:
        self.seed, self.classes, self.palette = seed, CLASSES, palette(len(CLASSES), background=True)

    def probabilities(self, name: str) -> np.ndarray:
        rng = np.random.default_rng([self.seed, *name.encode()])
        q = rng.dirichlet((1.0, 1.0, 1.0), SIZES.get(name, (2, 2))).transpose(2, 0, 1)
        return np.concatenate([q, np.zeros_like(q[:1])]).astype(np.float32)  # (K,H,W), the last class never occurs

    def label(self, name: str) -> np.ndarray:
        return self.probabilities(name).argmax(0).astype(np.uint8)

    def predict_many(self, images: Mapping[str, Any]) -> Iterator[tuple[str, np.ndarray]]:
        yield from ((name, self.label(name)) for name in images)

    def probabilities_many(self, images: Mapping[str, Any]) -> Iterator[tuple[str, np.ndarray]]:
        yield from ((name, self.probabilities(name)) for name in images)


def read_pngs(out: Path) -> dict[str, np.ndarray]:
    return {path.relative_to(out).as_posix(): np.array(Image.open(path)) for path in out.rglob("*.png")}


def jpeg_of(name: str, *, background: bool) -> bytes:
    buffer = io.BytesIO()
    picture = overlay(IMAGES[name], Predictions().label(name), labelling(background=background))
    Image.fromarray(picture).save(buffer, format="JPEG", quality=JPEG_QUALITY)
    return buffer.getvalue()


def read_overlays(out: Path) -> dict[str, np.ndarray]:
    """The label whose overlay each JPEG is, by the images that the contract writes."""
    found = {}
    for path in out.rglob("*.jpg"):
        name = next(name for name in SIZES if (out / name).with_suffix(".jpg") == path)
        assert path.read_bytes() in [jpeg_of(name, background=background) for background in (True, False)]
        found[Path(name).with_suffix(".png").as_posix()] = Predictions().label(name)
    return found


def read_csv(out: Path) -> dict[str, np.ndarray]:
    head, *lines = (out / "submission.csv").read_text(encoding="utf-8").splitlines()
    assert head == "image_id,PredictionString"
    found = {}
    for name, text in (line.split(",") for line in lines):
        large = np.array(text.split(" "), np.uint8).reshape(45, 28)
        height, width = SIZES[name]
        found[Path(name).with_suffix(".png").as_posix()] = large[:: 45 // height, :: 28 // width]
    return found


def read_coco(out: Path) -> dict[str, np.ndarray]:
    coco, found = COCO(str(out / "predictions.json")), {}
    names = {number: category["name"] for number, category in coco.cats.items()}
    for number, image in coco.imgs.items():
        label = np.zeros((image["height"], image["width"]), np.uint8)
        for entry in coco.imgToAnns[number]:
            label[coco.annToMask(entry) == 1] = CLASSES.index(names[entry["category_id"]])
        found[Path(image["file_name"]).with_suffix(".png").as_posix()] = label
    return found


def read_probabilities(out: Path) -> dict[str, np.ndarray]:
    found = {}
    for path in out.rglob("*.safetensors"):
        values = load_file(path)["probabilities"]
        assert values.dtype == np.float16
        found[path.relative_to(out).with_suffix(".png").as_posix()] = values.argmax(0)
    return found


READERS: dict[str, Callable[[Path], dict[str, np.ndarray]]] = {
    "png": read_pngs,
    "rle": read_coco,
    "probabilities": read_probabilities,
    "overlay": read_overlays,
    "csv": read_csv,
}


def labelling(*, background: bool = True) -> Labelling:
    return Labelling(CLASSES, palette(len(CLASSES), background=True), background, LAYOUT)


def write(kind: str, out: Path, seed: int = 0, *, background: bool = True, close: bool = True) -> Writer:
    predictions: Any = Predictions(seed)
    writer = WRITERS[kind](out, labelling(background=background))
    for name, image in IMAGES.items():  # a batch each
        writer.write_all(predictions, {name: image})
    writer.write_all(predictions, {})
    if close:
        writer.join(list(IMAGES))
    return writer


def test_every_format_of_the_command_has_a_writer_and_a_reader_here() -> None:
    assert list(WRITERS) == list(Format) == list(READERS)


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("background", [True, False])
def test_what_is_written_is_read_back_as_the_labels(kind: str, background: bool, tmp_path: Path) -> None:
    write(kind, tmp_path, background=background)
    found = READERS[kind](tmp_path)
    assert set(found) == {Path(name).with_suffix(".png").as_posix() for name in SIZES}
    for name in SIZES:
        expected = Predictions().label(name)
        np.testing.assert_array_equal(found[Path(name).with_suffix(".png").as_posix()], expected)


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("name", ["../a.png", "/etc/a.png", "b/../../a.png", "..", ""])
def test_names_stay_inside_the_folder(kind: str, name: str, tmp_path: Path) -> None:
    predictions: Any = Predictions()
    writer = WRITERS[kind](tmp_path / "out", labelling())
    with pytest.raises(ValueError, match="must be a path inside the folder of images"):
        writer.write_all(predictions, {name: np.zeros((2, 2, 3), np.uint8)})
    assert not files_of(tmp_path)


@pytest.mark.parametrize("kind", WRITERS)
def test_a_writer_that_starts_again_ends_with_the_files_of_one_that_was_not_stopped(kind: str, tmp_path: Path) -> None:
    write(kind, tmp_path / "whole")
    write(kind, tmp_path / "again", seed=1)  # of an older model
    write(kind, tmp_path / "again", close=False)
    write(kind, tmp_path / "again")
    assert files_of(tmp_path / "again") == files_of(tmp_path / "whole")


@pytest.mark.parametrize("kind", WRITERS)
def test_every_image_has_a_target_of_its_own_that_is_there_when_it_is_finished(kind: str, tmp_path: Path) -> None:
    writer = write(kind, tmp_path, close=False)
    targets = {writer.target(name) for name in IMAGES}
    assert len(targets) == len(IMAGES)
    assert all(target.is_file() for target in targets)
    assert not writer.target("b/never.png").exists()


@pytest.mark.parametrize("kind", WRITERS)
def test_a_folder_that_cannot_be_written_is_an_os_error_and_leaves_no_part_of_a_file(kind: str, tmp_path: Path) -> None:
    (tmp_path / "out").touch()
    with pytest.raises(OSError, match="out"):
        write(kind, tmp_path / "out")
    assert files_of(tmp_path) == {"out": b""}


@pytest.mark.parametrize("background", [True, False])
def test_a_coco_file_names_every_class_but_the_background(background: bool, tmp_path: Path) -> None:
    write("rle", tmp_path, background=background)
    content = json.loads((tmp_path / "predictions.json").read_text(encoding="utf-8"))
    assert [category["name"] for category in content["categories"]] == list(CLASSES[int(background) :])
    areas = [entry["area"] for entry in content["annotations"]]
    labels = [Predictions().label(name) for name in SIZES]
    assert sum(areas) == sum(int((label >= int(background)).sum()) for label in labels)
