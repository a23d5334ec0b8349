"""From what a teacher predicts of unlabelled images to the label maps that a student trains on.

The predictions are kept as two PNGs per image, labels and confidence, so that thresholds that look at all images need
one pass of the networks. File names are numbers: image ids are data.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from analysis.pseudo_labels.thresholds import Bins, Counts, Float, Labels, cap_frequent, certain, count_calls, predict
from trainables.data.index import IGNORE_INDEX
from trainables.files import write_atomically


@dataclass(frozen=True)
class Predicted:
    """An unlabelled image and its two files."""

    image_id: str
    labels: Path
    confidence: Path


@dataclass(frozen=True)
class Chosen:
    """An image that a student trains on."""

    image_id: str
    file: str  # PNG of class indices, 255 for ignored pixels, in the folder of the pseudo labels
    sha256: str  # of the label map's pixels
    certain: float  # share of its pixels


def write_predictions(folder: Path, said: Iterable[tuple[str, Float]]) -> list[Predicted]:
    """Write what a teacher `said` of images, probabilities (K,H,W) each."""
    found = []
    for number, (image_id, shares) in enumerate(said):
        labels, bins = predict(shares)
        one = Predicted(image_id, folder / f"{number:06d}-label.png", folder / f"{number:06d}-confidence.png")
        _write_png(one.labels, labels)
        _write_png(one.confidence, bins)
        found.append(one)
    return found


def choose(
    predictions: Sequence[Predicted], least_bins: Sequence[int], folder: Path, *, cap: float, min_certain: float
) -> tuple[tuple[int, ...], list[Chosen]]:
    """Write the certain labels of every image of which at least the share `min_certain` is certain; returns the
    thresholds after the cap on frequent classes, and these images."""
    num_classes = len(least_bins)
    calls: Counts = np.zeros((num_classes, 0), np.int64)
    for one in predictions:
        counted = count_calls(*_read(one), num_classes)
        calls = counted if not calls.size else calls + counted
    raised = cap_frequent(calls, least_bins, cap) if calls.size else tuple(least_bins)
    chosen: list[Chosen] = []
    for one in predictions:
        kept = certain(*_read(one), raised)
        share = float((kept != IGNORE_INDEX).mean())
        if share >= min_certain and share > 0:
            name = f"{len(chosen):06d}.png"
            _write_png(folder / name, kept)
            chosen.append(Chosen(one.image_id, name, hashlib.sha256(kept.tobytes()).hexdigest(), share))
    return raised, chosen


def _read(one: Predicted) -> tuple[Labels, Bins]:
    labels, bins = (cv2.imread(str(path), cv2.IMREAD_UNCHANGED) for path in (one.labels, one.confidence))
    if labels is None or bins is None:
        raise ValueError(f"{one.labels} and {one.confidence.name} must be there, got none; run the command again")
    return np.asarray(labels, np.uint8), np.asarray(bins, np.uint16)


def _write_png(path: Path, pixels: Labels | Bins) -> None:
    done, encoded = cv2.imencode(".png", pixels)
    assert done, "a PNG of 8 or 16 bits can be written of any array"
    write_atomically(path, lambda temporary: temporary.write_bytes(encoded.tobytes()))
