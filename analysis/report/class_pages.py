"""A page per class beside the report: its hold-out images with the best, middling and worst IoU under what ships, each
with its labels, the prediction and a map of the errors; its scores under every rule; what it is confused with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from analysis.ensembling.result import EnsembleResult
from analysis.report import gallery, html, tables
from analysis.report.palette import Colours, palette
from trainables.data.index import IGNORE_INDEX
from trainables.metrics import iou

PER_KIND = 2  # images of each kind: best, middle, worst
MANY_CLASSES = 40  # from here on one image of each kind
PICTURE_PX = 480
MOST_CONFUSED = 5
# of the error map, told apart by all eyes, and by their lightness in print (Okabe and Ito)
HIT, MISSED, WRONG = (0, 114, 178), (230, 159, 0), (204, 121, 167)
ERRORS = (("right", HIT), ("missed", MISSED), ("predicted in error", WRONG))

Image = NDArray[np.uint8]  # (H,W,3) RGB
Label = NDArray[np.uint8]  # (H,W)
Read = Callable[[str], tuple[Image, Label, Label]]  # image id -> photograph, truth, prediction


@dataclass(frozen=True)
class ClassPages:
    """What the pages are of; counts (N,K,K) of what ships on the hold-out, in the order of `image_ids` (N,)."""

    title: str
    ensemble: EnsembleResult
    labels: Mapping[str, str]  # rule -> its name for readers
    image_ids: Sequence[str]
    counts: NDArray[np.int64]


def page_name(k: int) -> str:
    """The file of class k."""
    return f"class-{k:03d}.html"


def write_class_pages(folder: Path, pages: ClassPages, read: Read) -> None:
    """Write a page per class into `folder`."""
    classes = pages.ensemble.classes
    scores = iou(pages.counts)  # (N,K)
    colours = palette(len(classes), background=pages.ensemble.background)
    for k in range(len(classes)):
        shown = [
            (kind, _pictures(pages, scores[:, k], rows, k, colours, read))
            for kind, rows in choose_images(scores[:, k], _per_kind(len(classes))).items()
        ]
        html.write_page(folder / page_name(k), "class.html.j2", _values(pages, scores[:, k], k, colours) | {
            "shown": shown,
        }, {})  # fmt: skip


def choose_images(scores: NDArray[np.float64], per_kind: int) -> dict[str, list[int]]:
    """Rows of the images (N,) with the worst, the middle and the best score, none twice; NaN, where the image does not
    show the class, is left out."""
    order = np.argsort(scores, kind="stable")[: int((~np.isnan(scores)).sum())].tolist()
    worst = order[:per_kind]
    best = order[max(len(worst), len(order) - per_kind) :][::-1]
    rest = order[len(worst) : len(order) - len(best)]
    start = max(0, (len(rest) - per_kind + 1) // 2)
    return {"Worst": worst, "Median": rest[start : start + per_kind], "Best": best}


def error_map(image: Image, truth: Label, prediction: Label, k: int) -> Image:
    """The photograph in pale grey, under the pixels of class k that are right, missed, or predicted in error."""
    grey = image.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)
    shown = np.repeat((255 - (255 - grey) * 0.35).astype(np.uint8)[..., None], 3, axis=2)
    true, said, labelled = truth == k, prediction == k, truth != IGNORE_INDEX
    for where, colour in ((true & said, HIT), (true & ~said, MISSED), (labelled & ~true & said, WRONG)):
        shown[where] = colour
    return shown


def confused_with(total: NDArray[np.int64], k: int, classes: Sequence[str]) -> dict[str, list[tuple[str, float]]]:
    """Of (K,K) [true, predicted]: which classes the true pixels are taken for, and which the predicted ones are of."""

    def largest(counts: NDArray[np.int64]) -> list[tuple[str, float]]:
        share = counts / max(1, int(counts.sum()))
        order = [int(j) for j in np.argsort(-share, kind="stable") if j != k and share[j] > 0]
        return [(classes[j], float(share[j])) for j in order[:MOST_CONFUSED]]

    return {"taken for": largest(total[k]), "seen in": largest(total[:, k])}


def _per_kind(num_classes: int) -> int:
    return PER_KIND if num_classes < MANY_CLASSES else 1


def _values(pages: ClassPages, scores: NDArray[np.float64], k: int, colours: Colours) -> dict[str, Any]:
    ensemble, classes = pages.ensemble, pages.ensemble.classes
    pixels = pages.counts[:, k].sum(axis=1)  # (N,)
    labelled = pages.counts.sum(axis=(1, 2))
    images = [
        {"name": pages.image_ids[n], "iou": float(scores[n]), "share": float(pixels[n] / max(1, int(labelled[n])))}
        for n in np.argsort(scores, kind="stable").tolist()
        if not np.isnan(scores[n])
    ]
    shipped = ensemble.verdict.rule
    rules = [
        {"label": pages.labels[one.name], "ships": one.name == shipped, "score": tables.class_score(one.holdout, k)}
        for one in ensemble.rules
    ]
    around = [(j, classes[j]) if 0 <= j < len(classes) else None for j in (k - 1, k + 1)]
    return {
        "title": pages.title,
        "name": classes[k],
        "colour": gallery.css(colours[k]),
        "score": ensemble.shipped.holdout,
        "k": k,
        "share": float(pixels.sum() / max(1, int(labelled.sum()))),
        "num_holdout": len(pages.image_ids),
        "rules": rules,
        "images": images,
        "confused": confused_with(pages.counts.sum(axis=0), k, classes),
        "errors": [(name, gallery.css(np.array(colour))) for name, colour in ERRORS],
        "legend": [(name, gallery.css(colours[j])) for j, name in enumerate(classes)],
        "before": around[0] and (page_name(around[0][0]), around[0][1]),
        "after": around[1] and (page_name(around[1][0]), around[1][1]),
    }


def _pictures(
    pages: ClassPages, scores: NDArray[np.float64], rows: Sequence[int], k: int, colours: Colours, read: Read
) -> list[dict[str, Any]]:
    """The chosen images, each as four pictures."""
    background, found = pages.ensemble.background, []
    for n in rows:
        image, truth, prediction = smaller(*read(pages.image_ids[n]))
        views = {
            "image": image,
            "truth": html.tinted(image, truth, colours, background=background),
            "prediction": html.tinted(image, prediction, colours, background=background),
            "errors": error_map(image, truth, prediction, k),
        }
        uris = {what: html.photograph(view, PICTURE_PX) for what, view in views.items()}
        found.append({"name": pages.image_ids[n], "iou": float(scores[n]), "pictures": uris})
    return found


def smaller(image: Image, truth: Label, prediction: Label) -> tuple[Image, Label, Label]:
    """At most PICTURE_PX a side. Labels take the nearest pixel, so that no class appears that is not there."""
    factor = min(1.0, PICTURE_PX / max(truth.shape))
    size = (max(1, round(truth.shape[1] * factor)), max(1, round(truth.shape[0] * factor)))

    def resized(array: NDArray[np.uint8], how: int) -> NDArray[np.uint8]:
        return np.asarray(cv2.resize(np.ascontiguousarray(array), size, interpolation=how), np.uint8)

    return (
        resized(image, cv2.INTER_AREA),
        resized(truth, cv2.INTER_NEAREST),
        resized(prediction, cv2.INTER_NEAREST),
    )
