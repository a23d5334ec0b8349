"""The page of suspicious labels: each with its photograph, its label and the models' prediction, to be ticked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from analysis.label_errors.confident_learning import Probabilities, Suspect
from analysis.label_errors.corrections import COLUMNS, csv_rows
from analysis.report import data_charts, html
from analysis.report.gallery import css
from analysis.report.palette import palette
from trainables.data.cache import Cache
from trainables.data.index import SegIndex
from trainables.data.label_sources import label_source

MARGIN = 0.35  # of a suspect's box, shown around it
MIN_SHOWN_PX = 96
PICTURE_PX = 300
NUM_IMAGES = 12
WEAK_SHARE = 0.25  # of the annotations suspected: models, not labels, are then mostly wrong


def write_suspects(
    out: Path,
    card: Path,
    cache: Cache,
    suspects: Sequence[Suspect],
    images: Mapping[str, float],  # image_id -> score, of all that were judged
    predicted: Probabilities,
    caveats: Sequence[str],
    top: int,
) -> None:
    """Write suspects.html into `out`, with the `top` most suspicious."""
    index = cache.index
    colours = palette(index.num_classes, background=index.background)
    shown: list[dict[str, Any]] = []
    for s in suspects[:top]:
        label, guess = cache.label(s.image_id), predicted(s.image_id).argmax(axis=0).astype(np.uint8)
        window = _window(s.box, *label.shape)
        photo = np.asarray(cache.image(s.image_id))
        views = {
            "given_uri": html.tinted(photo, label, colours, background=index.background),
            "predicted_uri": html.tinted(photo, guess, colours, background=index.background),
            "image_uri": photo,
        }
        uris = {key: html.photograph(_framed(view, s.box, window), PICTURE_PX) for key, view in views.items()}
        shown.append({**vars(s), **uris, "row": csv_rows([s]).splitlines()[1]})
    joint = np.zeros((index.num_classes, index.num_classes))
    row = {name: k for k, name in enumerate(index.classes)}
    for s in suspects:
        joint[row[s.given], row[s.suggested]] += 1
    hover = "labelled %{customdata[0]}<br>believed %{customdata[1]}<br>%{z:,} suspects<extra></extra>"

    def labelled(name: str) -> Any:
        return html.tinted(cache.image(name), cache.label(name), colours, background=index.background)

    worst = sorted(images, key=lambda name: -images[name])[:NUM_IMAGES]
    values = {
        "title": f"Suspicious labels of {index.name}",
        "headline": f"{len(suspects):,} labels look wrong to models that have not seen them",
        "num_images": len(images),
        "num_open": sum(image.role in ("train", "val") for image in index.images),
        "num_annotations": num_annotations(index, images),
        "num_suspects": len(suspects),
        "counts": {"relabel": 0, "remove": 0, "add": 0} | Counter(s.kind for s in suspects),
        "background": index.background,
        "caveats": list(caveats),
        "list_path": str(out / "suspects.csv"),
        "card": str(card),
        "suspects": shown,
        "legend": [(name, css(colours[k])) for k, name in enumerate(index.classes)],
        "images": [
            {
                "name": name,
                "text": f"{images[name]:.3f}",
                "uri": html.photograph(labelled(name), 240),
            }
            for name in worst
        ],
        "csv_header": ",".join(COLUMNS),
    }  # fmt: skip
    figures = {"joint": data_charts.heat(joint, index.classes, index.classes, hover=hover, labels=".0f")}
    html.write_page(out / "suspects.html", "cleanse.html.j2", values, figures)


def num_annotations(index: SegIndex, judged: Collection[str]) -> int:
    return sum(len(label_source(index, image).objects()) for image in index.images if image.image_id in judged)


def caveats_of(index: SegIndex, judged: Collection[str], suspects: Sequence[Suspect], num_models: int) -> list[str]:
    """What to keep in mind while reading the list."""
    said = ["the best epoch was chosen on these images, which flatters the models a little"]
    if num_models == 1:
        said.append("a single model judged: its own weaknesses look like wrong labels")
    share = sum(s.annotation_id is not None for s in suspects) / max(1, num_annotations(index, judged))
    if share > WEAK_SHARE:
        said.append(
            f"{share:.0%} of the annotations are suspected, more than labels usually are wrong: the models are weak "
            "and most suspects their own mistakes; train longer, or read the top of the list alone"
        )
    return said


def _window(box: tuple[int, int, int, int], height: int, width: int) -> tuple[slice, slice]:
    """A suspect with its surroundings."""
    x, y, w, h = box
    side = max(MIN_SHOWN_PX, round((1 + 2 * MARGIN) * max(w, h)))
    left, top = max(0, x + w // 2 - side // 2), max(0, y + h // 2 - side // 2)
    left, top = max(0, min(left, width - side)), max(0, min(top, height - side))
    return slice(top, top + side), slice(left, left + side)


def _framed(view: Any, box: tuple[int, int, int, int], window: tuple[slice, slice]) -> Any:
    """The window, enlarged to the picture's size, with a fine frame around the suspect."""
    cut = np.ascontiguousarray(view[window])
    factor = PICTURE_PX / max(cut.shape[:2])
    size = (max(1, round(cut.shape[1] * factor)), max(1, round(cut.shape[0] * factor)))
    framed = cv2.resize(cut, size, interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR)
    left, top = box[0] - window[1].start, box[1] - window[0].start
    start = (round(left * factor), round(top * factor))
    end = (round((left + box[2]) * factor) - 1, round((top + box[3]) * factor) - 1)
    cv2.rectangle(framed, start, end, (0, 0, 0), 3)
    cv2.rectangle(framed, start, end, (255, 255, 255), 1)
    return framed
