"""The page of suspicious labels: each with its photograph, label and prediction, and a box to tick."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from analysis.label_errors.confident_learning import Probabilities, Suspect, SuspectRanking
from analysis.label_errors.corrections import COLUMNS, csv_rows
from analysis.report import data_charts, html
from analysis.report.gallery import css
from analysis.report.palette import Colours, palette
from trainables.data.cache import Cache
from trainables.data.index import SegIndex

MARGIN = 0.35  # of a suspect's box, shown around it
MIN_SHOWN_PX = 96
PICTURE_PX = 300
NUM_IMAGES = 12
WEAK_SHARE = 0.25  # of the annotations suspected: models, not labels, are then mostly wrong


def write_suspects(
    out: Path,
    card: Path,
    cache: Cache,
    ranking: SuspectRanking,
    predicted: Probabilities,
    caveats: Sequence[str],
    top: int,
) -> None:
    """Write suspects.html into `out`, with the `top` most suspicious labels."""
    index, suspects = cache.index, ranking.suspects
    colours = palette(index.num_classes, background=index.background)
    values = {
        "title": f"Suspicious labels of {index.name}",
        "headline": headline(ranking),
        "num_images": len(ranking.image_scores),
        "num_open": sum(image.role in ("train", "val") for image in index.images),
        "num_annotations": ranking.num_annotations,
        "num_suspects": len(suspects),
        "counts": {"relabel": 0, "remove": 0, "add": 0} | Counter(s.kind for s in suspects),
        "background": index.background,
        "caveats": list(caveats),
        "list_path": str(out / "suspects.csv"),
        "card": shlex.quote(str(card)),
        "suspects": [_shown(suspect, cache, predicted, colours) for suspect in suspects[:top]],
        "legend": [(name, css(colours[k])) for k, name in enumerate(index.classes)],
        "images": _worst_images(ranking.image_scores, cache, colours),
        "csv_header": ",".join(COLUMNS),
    }
    html.write_page(out / "suspects.html", "cleanse.html.j2", values, {"joint": _joint_figure(suspects, index)})


def _shown(suspect: Suspect, cache: Cache, predicted: Probabilities, colours: Colours) -> dict[str, Any]:
    """A suspect with its three pictures and its row of the list."""
    background = cache.index.background
    label = cache.label(suspect.image_id)
    guess = predicted(suspect.image_id).argmax(axis=0).astype(np.uint8)
    window = _window(suspect.box, *label.shape)
    photo = np.asarray(cache.image(suspect.image_id))
    views = {
        "given_uri": html.tinted(photo, label, colours, background=background),
        "predicted_uri": html.tinted(photo, guess, colours, background=background),
        "image_uri": photo,
    }
    uris = {key: html.photograph(_framed(view, suspect.box, window), PICTURE_PX) for key, view in views.items()}
    return {**vars(suspect), **uris, "row": csv_rows([suspect]).split("\n", 1)[1].removesuffix("\n")}


def _worst_images(scores: Mapping[str, float], cache: Cache, colours: Colours) -> list[dict[str, str]]:
    def picture(name: str) -> str:
        tinted = html.tinted(cache.image(name), cache.label(name), colours, background=cache.index.background)
        return html.photograph(tinted, 240)

    worst = sorted(scores, key=lambda name: -scores[name])[:NUM_IMAGES]
    return [{"name": name, "text": f"{scores[name]:.3f}", "uri": picture(name)} for name in worst]


def _joint_figure(suspects: Sequence[Suspect], index: SegIndex) -> str:
    """Suspects by labelled and predicted class."""
    counts = np.zeros((index.num_classes, index.num_classes))
    row = {name: k for k, name in enumerate(index.classes)}
    for suspect in suspects:
        counts[row[suspect.given], row[suspect.suggested]] += 1
    hover = "labelled %{customdata[0]}<br>predicted %{customdata[1]}<br>%{z:,} suspects<extra></extra>"
    return data_charts.heat(counts, index.classes, index.classes, hover=hover, labels=".0f")


def headline(ranking: SuspectRanking) -> str:
    """What was found, and how good the models are; of those that are too weak to judge, that first."""
    num, share, good = len(ranking.suspects), ranking.suspected_share, f"mIoU {ranking.miou:.2f}"
    if share > WEAK_SHARE:
        return f"the models ({good}) are too weak to judge these labels: they doubt {share:.0%} of the annotations"
    return f"{num:,} label{' looks' if num == 1 else 's look'} wrong to models ({good}) that have not seen them"


def caveats_of(ranking: SuspectRanking, num_models: int) -> list[str]:
    """What to keep in mind while reading the list."""
    said = ["the best epoch was chosen on these images, which flatters the models a little"]
    if num_models == 1:
        said.append("a single model judged: its own weaknesses look like wrong labels")
    share = ranking.suspected_share
    if share > WEAK_SHARE:
        said.append(
            f"{share:.0%} of the annotations are suspected, more than usually are wrong: the models are weak "
            "and most suspects their own mistakes; train longer, or read only the top of the list"
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
