"""Sample predictions as pictures of their own, for the trackers: a few hold-out images, each as photograph, labels and
prediction side by side."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from analysis.ensembling.result import EnsembleResult
from analysis.report import html
from analysis.report.class_pages import Read, choose_images, smaller
from analysis.report.palette import Colours, palette
from trainables.files import write_atomically

PER_KIND = 2  # images of each kind: worst, median, best
GAP_PX = 6
PANELS = "photograph, labels, prediction"


@dataclass(frozen=True)
class Sample:
    """A hold-out image by its mIoU under what ships."""

    kind: str  # Worst, Median or Best
    number: int  # from 1
    image_id: str
    miou: float

    @property
    def file_name(self) -> str:
        return f"{self.kind.lower()}-{self.number}.jpg"

    @property
    def caption(self) -> str:
        return f"{self.kind} {self.number}: {self.image_id}, mIoU {self.miou:.3f} ({PANELS})"


def choose_samples(ensemble: EnsembleResult) -> list[Sample]:
    """The hold-out images with the worst, the median and the best mIoU, none twice."""
    scores = np.array([np.nan if one.miou_shipped is None else one.miou_shipped for one in ensemble.images], float)
    return [
        Sample(kind, number, ensemble.images[row].image_id, float(scores[row]))
        for kind, rows in choose_images(scores, PER_KIND).items()
        for number, row in enumerate(rows, 1)
    ]


def write_samples(folder: Path, ensemble: EnsembleResult, read: Read) -> None:
    """Write a JPEG per sample into `folder`."""
    colours = palette(len(ensemble.classes), background=ensemble.background)
    for sample in choose_samples(ensemble):
        content = html.jpeg(_panels(read, sample.image_id, colours, background=ensemble.background))
        write_atomically(folder / sample.file_name, lambda path, content=content: path.write_bytes(content))  # type: ignore[misc]


def _panels(read: Read, image_id: str, colours: Colours, *, background: bool) -> NDArray[np.uint8]:
    """(H,W,3), white between the pictures."""
    image, truth, prediction = smaller(*read(image_id))
    gap = np.full((image.shape[0], GAP_PX, 3), 255, np.uint8)
    labels, predicted = (html.tinted(image, label, colours, background=background) for label in (truth, prediction))
    return np.hstack([image, gap, labels, gap, predicted])
