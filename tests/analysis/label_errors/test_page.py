"""The page of suspects: what can be ticked is the list's own rows, and pictures show the suspect."""

from __future__ import annotations

import base64
import csv
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from analysis.label_errors.corrections import read_list
from analysis.label_errors.page import NUM_IMAGES, PICTURE_PX


class Elements(HTMLParser):
    """The attributes of every element, by tag."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: dict[str, list[dict[str, str | None]]] = {}
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.setdefault(tag, []).append(dict(attrs))


def page_of(judged: Any) -> str:
    text: str = (judged.out / "suspects.html").read_text(encoding="utf-8")
    return text


def rows_of(judged: Any) -> list[str]:
    lines: list[str] = (judged.out / "suspects.csv").read_text(encoding="utf-8").splitlines()
    return lines


def test_boxes_hold_the_first_rows_of_the_list_and_can_be_applied(judged: Any, tmp_path: Path) -> None:
    boxes = [box["data-row"] for box in Elements(page_of(judged)).found["input"]]
    header, *rows = rows_of(judged)
    assert boxes == rows[:5]
    (tmp_path / "list.csv").write_text("\n".join([header, *rows[:5]]), encoding="utf-8")
    assert len(read_list(tmp_path / "list.csv", judged.index)) == 5


def test_every_suspect_has_its_photograph_its_labels_and_the_prediction(judged: Any) -> None:
    images = Elements(page_of(judged)).found["img"]
    rows = list(csv.DictReader(rows_of(judged)))[:5]
    for n, row in enumerate(rows):
        name = row["image_id"]
        assert [image["alt"] for image in images[3 * n : 3 * n + 3]] == [
            f"Photograph {name}", f"Labels of {name}", f"Prediction of {name}",
        ]  # fmt: skip
        pictures = [_decoded(image["src"]) for image in images[3 * n : 3 * n + 3]]
        assert {max(picture.size) for picture in pictures} == {PICTURE_PX}
        assert np.abs(np.asarray(pictures[1], float) - np.asarray(pictures[2], float)).max() > 40  # another colour


def test_the_table_of_classes_counts_every_suspect(judged: Any) -> None:
    [content] = re.findall(r'id="figure-joint">(.*?)</script>', page_of(judged), re.DOTALL)
    z, expected = np.array(json.loads(content)["data"][0]["z"]), np.zeros((11, 11))
    for row in csv.DictReader(rows_of(judged)):
        expected[judged.index.classes.index(row["given"]), judged.index.classes.index(row["suggested"])] += 1
    np.testing.assert_array_equal(z, expected)


def test_images_come_with_the_least_believed_first(judged: Any) -> None:
    scores = json.loads((judged.out / "suspects.json").read_text(encoding="utf-8"))["images"]
    text = page_of(judged)
    shown = [image["alt"] for image in Elements(text[text.index('id="images"') :]).found["img"]]
    assert shown == list(scores)[:NUM_IMAGES]


def test_a_single_model_and_many_suspects_are_said(judged: Any, tmp_path: Path) -> None:
    said = judged.again(tmp_path, "--data", judged.card, "--logits", judged.folders[1])
    assert "a single model judged" in said
    assert "a single model judged" not in page_of(judged)


def _decoded(uri: str | None) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode((uri or "").partition("base64,")[2])))


def test_the_headline_claims_no_more_than_the_caveats_allow(judged: Any) -> None:
    page = page_of(judged)
    [heading] = re.findall(r'<h1 id="top-heading">(.*?)</h1>', page)
    assert ("the models are weak" in page) == ("too weak to judge these labels" in heading)
    assert ("the models are weak" in page) != ("that have not seen them" in heading)
