"""Writes predictions to disk: palette PNGs, one COCO file, or probabilities.

Names mirror the images' paths under their folder; each file is written whole or not at all. Every writer raises
ValueError for a name that would lead out of the folder that it writes to.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow
from safetensors.numpy import save

from analysis.report.palette import Colours, png_palette
from trainables.data.coco_writer import CocoWriter
from trainables.files import write_atomically

if TYPE_CHECKING:
    from analysis.bundle.predictor import Predictor

Image = NDArray[np.uint8]  # (H,W,3) RGB
Label = NDArray[np.uint8]  # (H,W)
COCO_NAME = "predictions.json"


class Writer(Protocol):
    def write_all(self, predictor: Predictor, images: Mapping[str, Image]) -> None:
        """Predict these images and write or collect the predictions. Called once per batch."""
        ...

    def close(self) -> None:
        """After the last batch."""
        ...


class LabelPngs:
    """One palette PNG (mode P) per image: the pixel's value is its class, its colour the class's."""

    def __init__(self, out: Path, colours: Colours) -> None:
        self._out, self._palette = out, png_palette(colours)

    def write_all(self, predictor: Predictor, images: Mapping[str, Image]) -> None:
        for name, label in predictor.predict_many(images):
            self._write(name, label)

    def _write(self, name: str, label: Label) -> None:
        picture = Pillow.fromarray(label)
        picture.putpalette(self._palette)
        write_atomically(mirrored(self._out, name, ".png"), lambda path: picture.save(path, format="PNG"))

    def close(self) -> None:
        """Nothing is held."""


class CocoFile:
    """One COCO file of all images: one annotation (compressed RLE) per class in each image.

    Category ids are class indices. With a background class 0 it is left out, as in any COCO file: it is what remains.
    """

    def __init__(self, out: Path, classes: Sequence[str], *, background: bool) -> None:
        self._out = out
        first = 1 if background else 0
        self._categories = {k: name for k, name in enumerate(classes) if k >= first}
        self._coco = CocoWriter()

    def write_all(self, predictor: Predictor, images: Mapping[str, Image]) -> None:
        for name, label in predictor.predict_many(images):
            self._add(name, label)

    def _add(self, name: str, label: Label) -> None:
        image_id = self._coco.add_image(relative(name), *label.shape)
        for k in np.unique(label).tolist():
            if k in self._categories:
                self._coco.add_mask(image_id, k, label == k)

    def close(self) -> None:
        text = json.dumps(self._coco.content(self._categories), ensure_ascii=False)
        write_atomically(self._out / COCO_NAME, partial(_write_bytes, content=text.encode()))


class ProbabilityFiles:
    """One safetensors file per image: `probabilities` (K,H,W) float16, the class names in the metadata. They are the
    vote's; post-processing of the label map shows in the other two formats alone."""

    def __init__(self, out: Path, classes: Sequence[str]) -> None:
        self._out = out
        self._metadata: Mapping[str, str] = {"classes": json.dumps(list(classes))}

    def write_all(self, predictor: Predictor, images: Mapping[str, Image]) -> None:
        for name, probabilities in predictor.probabilities_many(images):
            # row by row: safetensors writes the bytes as they lie in memory, whatever the strides say
            values = np.ascontiguousarray(probabilities, np.float16)
            content = save({"probabilities": values}, metadata=dict(self._metadata))
            write_atomically(mirrored(self._out, name, ".safetensors"), partial(_write_bytes, content=content))

    def close(self) -> None:
        """Nothing is held."""


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


# by the name of the format, `analysis.predict.Format`; background: class 0 is the pixels under no annotation
WRITERS: dict[str, Callable[[Path, Predictor, bool], Writer]] = {
    "png": lambda out, predictor, _: LabelPngs(out, predictor.palette),
    "rle": lambda out, predictor, background: CocoFile(out, predictor.classes, background=background),
    "probabilities": lambda out, predictor, _: ProbabilityFiles(out, predictor.classes),
}
