"""Writes predictions to disk, in one of several formats.

Names mirror the images' paths under their folder; each file is written whole or not at all, and an image is finished
when its `target` is there. Formats of which one file holds all images keep a label map per image in a hidden folder and
join these at the end. Every writer raises ValueError for a name that would lead out of the folder that it writes to.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow
from safetensors.numpy import save

from analysis.prediction.competition_csv import write_submission
from analysis.prediction.job import CsvLayout
from analysis.report.palette import Colours, paint, png_palette
from trainables.data.coco_writer import CocoWriter
from trainables.files import write_atomically

if TYPE_CHECKING:
    from analysis.bundle.predictor import Predictor

Image = NDArray[np.uint8]  # (H,W,3) RGB
Label = NDArray[np.uint8]  # (H,W)
COCO_NAME, CSV_NAME = "predictions.json", "submission.csv"
PARTS = ".parts"  # label maps of formats that join them
OPACITY = 0.5  # of the classes' colours over a photograph
JPEG_QUALITY = 90


@dataclass(frozen=True)
class Labelling:
    """What label maps mean, and what a CSV of them looks like. Class 0 is the pixels under no annotation where there is
    a background."""

    classes: tuple[str, ...]  # (K,)
    palette: Colours  # (K,3)
    background: bool
    layout: CsvLayout = field(default_factory=CsvLayout)
    expected: Sequence[str] | None = None  # rows of the CSV


class Writer(Protocol):
    def target(self, name: str) -> Path:
        """The file that is there when the image of this name is finished."""
        ...

    def write_all(self, predictor: Predictor, images: Mapping[str, Image]) -> None:
        """Predict these images and write their targets. Called once per batch, in any process."""
        ...

    def join(self, names: Sequence[str]) -> Path | None:
        """After the last batch: write the file that holds all images, in this order, if the format has one."""
        ...


class LabelPngs:
    """One palette PNG (mode P) per image: the pixel's value is its class, its colour the class's."""

    def __init__(self, out: Path, labelling: Labelling) -> None:
        self._out, self._palette = out, png_palette(labelling.palette)

    def target(self, name: str) -> Path:
        return mirrored(self._out, name, ".png")

    def write_all(self, predictor: Predictor, images: Mapping[str, Image]) -> None:
        for name, label in predictor.predict_many(images):
            write_png(self.target(name), label, self._palette)

    def join(self, names: Sequence[str]) -> None:
        """Each image has its file."""


class Overlays:
    """One JPEG per image: the photograph under the colours of its classes; no colour over the background."""

    def __init__(self, out: Path, labelling: Labelling) -> None:
        self._out, self._labelling = out, labelling

    def target(self, name: str) -> Path:
        return mirrored(self._out, name, ".jpg")

    def write_all(self, predictor: Predictor, images: Mapping[str, Image]) -> None:
        for name, label in predictor.predict_many(images):
            picture = Pillow.fromarray(overlay(images[name], label, self._labelling))
            save_it = partial(picture.save, format="JPEG", quality=JPEG_QUALITY)
            write_atomically(self.target(name), save_it)

    def join(self, names: Sequence[str]) -> None:
        """Each image has its file."""


class ProbabilityFiles:
    """One safetensors file per image: `probabilities` (K,H,W) float16, the class names in the metadata. They are the
    vote's; post-processing of the label map shows in the other formats alone."""

    def __init__(self, out: Path, labelling: Labelling) -> None:
        self._out = out
        self._metadata: Mapping[str, str] = {"classes": json.dumps(list(labelling.classes))}

    def target(self, name: str) -> Path:
        return mirrored(self._out, name, ".safetensors")

    def write_all(self, predictor: Predictor, images: Mapping[str, Image]) -> None:
        for name, probabilities in predictor.probabilities_many(images):
            # row by row: safetensors writes the bytes as they lie in memory, whatever the strides say
            values = np.ascontiguousarray(probabilities, np.float16)
            content = save({"probabilities": values}, metadata=dict(self._metadata))
            write_atomically(self.target(name), partial(_write_bytes, content=content))

    def join(self, names: Sequence[str]) -> None:
        """Each image has its file."""


class _Joined:
    """Label maps in a hidden folder until they are joined; they stay there, for a run that is started again."""

    def __init__(self, out: Path, labelling: Labelling) -> None:
        self._out, self._labelling, self._palette = out, labelling, png_palette(labelling.palette)

    def target(self, name: str) -> Path:
        part = self._out / PARTS / relative(name)
        return part.with_name(f"{part.name}.png")

    def write_all(self, predictor: Predictor, images: Mapping[str, Image]) -> None:
        for name, label in predictor.predict_many(images):
            write_png(self.target(name), label, self._palette)

    def labels(self, names: Sequence[str]) -> Iterator[tuple[str, Label]]:
        return ((name, read_png(self.target(name))) for name in names)


class CocoFile(_Joined):
    """One COCO file of all images: one annotation (compressed RLE) per class in each image.

    Category ids are class indices. With a background class 0 it is left out, as in any COCO file: it is what remains.
    """

    def join(self, names: Sequence[str]) -> Path:
        first = 1 if self._labelling.background else 0
        categories = {k: name for k, name in enumerate(self._labelling.classes) if k >= first}
        coco = CocoWriter()
        for name, label in self.labels(names):
            image_id = coco.add_image(name, *label.shape)
            for k in np.unique(label).tolist():
                if k in categories:
                    coco.add_mask(image_id, k, label == k)
        text = json.dumps(coco.content(categories), ensure_ascii=False)
        path = self._out / COCO_NAME
        write_atomically(path, partial(_write_bytes, content=text.encode()))
        return path


class CompetitionCsv(_Joined):
    """One CSV file of all images, checked before it takes its name; see `competition_csv`."""

    def join(self, names: Sequence[str]) -> Path:
        of = self._labelling
        path = self._out / CSV_NAME
        write_submission(
            path, names, lambda name: read_png(self.target(name)), of.layout, (len(of.classes), of.expected)
        )
        return path


def overlay(image: Image, label: Label, labelling: Labelling) -> Image:
    """image (H,W,3), label (H,W) -> (H,W,3)."""
    mixed: Image = np.rint((1 - OPACITY) * image + OPACITY * paint(label, labelling.palette)).astype(np.uint8)
    if labelling.background:
        mixed[label == 0] = image[label == 0]
    return mixed


def write_png(path: Path, label: Label, flat_palette: list[int]) -> None:
    """A label map (H,W) as a palette PNG."""
    picture = Pillow.fromarray(label)
    picture.putpalette(flat_palette)
    write_atomically(path, lambda temporary: picture.save(temporary, format="PNG"))


def read_png(path: Path) -> Label:
    """The label map (H,W) that `write_png` wrote. Raises ValueError for another file."""
    try:
        with Pillow.open(path, formats=["PNG"]) as picture:
            if picture.mode not in ("P", "L"):
                raise ValueError(
                    f"{path} must be a label map, one value per pixel, got mode {picture.mode}; predict again"
                )
            return np.array(picture)
    except (OSError, SyntaxError) as error:
        raise ValueError(f"{path} must be a label map as PNG, got none ({error}); predict again") from error


def _write_bytes(path: Path, *, content: bytes) -> None:
    path.write_bytes(content)


def relative(name: str) -> str:
    """The name itself. Raises ValueError where it would lead out of a folder that it is joined to."""
    parts = PurePosixPath(name).parts
    if not parts or ".." in parts or name.startswith("/"):
        raise ValueError(
            f"an image's name must be a path inside the folder of images, got {name!r}; name it relative to that folder"
        )
    return name


def mirrored(out: Path, name: str, suffix: str) -> Path:
    """'a/b.jpg' -> OUT/a/b<suffix>."""
    return (out / relative(name)).with_suffix(suffix)


@contextmanager
def writable(out: Path) -> Iterator[None]:
    """Raises ValueError with the remedy where an output folder cannot be written."""
    try:
        yield
    except OSError as error:
        raise ValueError(
            f"--out must be writable and have room, got {out} ({error.strerror or error}); what was finished is kept: "
            "free some space and run the command again, or choose another folder"
        ) from error


# by the name of the format, `analysis.prediction.job.Format`
WRITERS: dict[str, Callable[[Path, Labelling], Writer]] = {
    "png": LabelPngs,
    "rle": CocoFile,
    "probabilities": ProbabilityFiles,
    "overlay": Overlays,
    "csv": CompetitionCsv,
}
