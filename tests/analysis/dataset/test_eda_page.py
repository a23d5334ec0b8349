"""The data set page: every class has pictures of its own, no hold-out label is shown, figures hold the counts."""

from __future__ import annotations

import base64
import io
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from analysis.dataset.eda_page import PER_CLASS, PICTURE_PX
from analysis.dataset.statistics import DatasetStatistics, collect_statistics
from analysis.eda import describe
from trainables.data.card import read_card
from trainables.data.index import SegIndex
from trainables.data.reader import read
from trainables.data.synthetic.dataset import write_synthetic


@dataclass(frozen=True)
class Page:
    text: str
    index: SegIndex
    seen: DatasetStatistics
    facts: dict[str, Any]

    def figure(self, name: str) -> dict[str, Any]:
        [content] = re.findall(rf'id="figure-{name}">(.*?)</script>', self.text, re.DOTALL)
        found: dict[str, Any] = json.loads(content)
        return found

    def gallery(self) -> str:
        return self.text[self.text.index('id="gallery"') :]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Page:
    folder = tmp_path_factory.mktemp("eda")
    card = write_synthetic(folder / "data", num_images=24, image_px=64, seed=1)
    describe(card, folder / "eda.html", None, 0, 1)
    index = read(read_card(card))
    facts = json.loads((folder / "eda.json").read_text(encoding="utf-8"))
    text = (folder / "eda.html").read_text(encoding="utf-8")
    return Page(text, index, collect_statistics(index, num_workers=1), facts)


def test_bars_hold_the_counted_pixels_and_images(page: Page) -> None:
    pixels, open_rows = page.seen.class_pixels, [i.role != "unlabelled" for i in page.index.images]
    [share] = page.figure("pixels")["data"]
    np.testing.assert_allclose(share["x"], pixels[open_rows].sum(0) / pixels[open_rows].sum(), atol=1e-6)
    images, annotations = page.figure("counts")["data"]
    assert images["x"] == (pixels > 0).sum(0).tolist()
    ones = [sum(a.class_index == k for i in page.index.images for a in i.annotations) for k in range(11)]
    assert [value or 0 for value in annotations["x"]] == ones


def test_classes_that_occur_together_are_counted_on_images(page: Page) -> None:
    present = page.seen.class_pixels > 0
    z = np.array(page.figure("together")["data"][0]["z"])
    for a in range(11):
        for b in range(11):
            if a != b and present[:, a].any():
                expected = (present[:, a] & present[:, b]).sum() / present[:, a].sum()
                assert z[a, b] == pytest.approx(expected, abs=1e-4)


def test_every_annotation_is_in_the_histogram_of_sizes(page: Page) -> None:
    [trace] = page.figure("areas")["data"]
    assert sum(trace["customdata"][:-1]) == int((page.seen.annotation_px > 0).sum())


def test_the_gallery_shows_at_most_a_few_images_of_each_class_and_none_of_the_hold_out(page: Page) -> None:
    shown = re.findall(r'<img src="data:image/jpeg[^"]*" alt="([^"]+)"', page.gallery())
    assert set(shown) <= {i.image_id for i in page.index.images if i.role != "holdout"}
    assert 11 <= len(shown) <= 11 * PER_CLASS


def test_its_pictures_are_small(page: Page) -> None:
    for content in re.findall(r'src="data:image/jpeg;base64,([^"]+)"', page.gallery())[:5]:
        assert max(Image.open(io.BytesIO(base64.b64decode(content))).size) <= PICTURE_PX


def test_a_heat_map_per_class_that_occurs(page: Page) -> None:
    occurs = int((page.seen.class_pixels.sum(0) > 0).sum())
    heat = page.text[: page.text.index('id="gallery"')]
    assert len(set(re.findall(r"data:image/png;base64,[^)\"]+", heat))) == occurs


def test_the_same_command_writes_the_same_page(page: Page, tmp_path: Path) -> None:
    card = page.index.images[0].path.parents[1] / "data.yaml"
    describe(card, tmp_path / "again.html", None, 0, 1)
    assert (tmp_path / "again.html").read_text(encoding="utf-8") == page.text
