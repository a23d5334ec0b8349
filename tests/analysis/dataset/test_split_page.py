"""The split report: its tables are counted again from the split file and the labels."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from analysis.dataset.split_page import NUM_PICTURES
from analysis.split import app
from trainables.data.card import read_card
from trainables.data.index import SegIndex
from trainables.data.raster import rasterise
from trainables.data.reader import read
from trainables.data.synthetic.dataset import write_synthetic


@dataclass(frozen=True)
class Report:
    index: SegIndex
    split: Mapping[str, Any]
    facts: Mapping[str, Any]
    page: str
    said: str


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    """Of a card that names no test images: nothing is compared, so nothing is fitted."""
    root = tmp_path_factory.mktemp("split")
    card = write_synthetic(root / "data", num_images=30, image_px=64, seed=0).with_name("train_only.yaml")
    card.write_text("name: <b>only</b>\ntrain: train.json\n", encoding="utf-8")
    given = ["--data", card, "--out", root / "split.json", "--folds", 3, "--cache-dir", root / "cache"]
    result = CliRunner().invoke(app, [str(value) for value in given])
    assert result.exit_code == 0, result.output
    split, facts = (json.loads((root / name).read_text("utf-8")) for name in ("split.json", "split.report.json"))
    return Report(read(read_card(card)), split, facts, (root / "split.html").read_text("utf-8"), result.output)


def pixels_of(report: Report, ids: list[str]) -> np.ndarray:
    """(n,K): labelled pixels of each class, painted anew."""
    records, background = report.index.by_id(), report.index.background
    labels = [rasterise(records[i], 255, background=background) for i in ids]
    return np.array([np.bincount(label.ravel(), minlength=256)[: report.index.num_classes] for label in labels])


@pytest.mark.parametrize("part", ["train", "val", "holdout"])
def test_classes_are_those_of_the_parts_labels(report: Report, part: str) -> None:
    counts = pixels_of(report, report.split[part])
    rows = report.facts["classes"]
    assert [row["class"] for row in rows] == list(report.index.classes)
    assert [row["images"][part] for row in rows] == (counts > 0).sum(0).tolist()
    np.testing.assert_allclose([row["share"][part] for row in rows], counts.sum(0) / counts.sum(), atol=1e-9)
    assert next(p["num_images"] for p in report.facts["parts"] if p["part"] == part) == len(counts)


def test_folds_are_everything_but_the_hold_out_and_say_what_they_lack(report: Report) -> None:
    folds, rows = report.split["folds"], report.facts["folds"]
    assert sorted(i for ids in folds for i in ids) == sorted(report.split["train"] + report.split["val"])
    for ids, row in zip(folds, rows, strict=True):
        absent = pixels_of(report, ids).sum(0) == 0
        assert row["num_images"] == len(ids)
        assert row["lacks"] == [name for name, lacks in zip(report.index.classes, absent, strict=True) if lacks]


def test_the_figure_has_the_shares_of_the_table(report: Report) -> None:
    [content] = re.findall(r'id="figure-shares">(.*?)</script>', report.page, re.DOTALL)
    drawn = {trace["name"]: trace["x"] for trace in json.loads(content)["data"]}
    assert drawn == {part: [row["share"][part] for row in report.facts["classes"]] for part in drawn}
    assert set(drawn) == {"train", "val", "holdout"}


def test_nearest_pairs_show_each_train_image_once(report: Report) -> None:
    pairs = re.findall(r"<figcaption>(\w+): ([^<]+)</figcaption>", report.page)
    scored, trained = pairs[::2], pairs[1::2]
    assert 0 < len(scored) <= NUM_PICTURES
    assert all(part in ("val", "holdout") and name in report.split[part] for part, name in scored)
    assert all(part == "train" and name in report.split["train"] for part, name in trained)
    assert len(set(trained)) == len(trained)


def test_every_finding_is_on_the_page_and_in_the_terminal(report: Report) -> None:
    assert report.facts["findings"]
    for note in report.facts["findings"]:
        assert f"note: {note}\n" in report.said
        assert note in html.unescape(report.page)
    assert report.facts["fingerprint"] == report.split["fingerprint"]


def test_why_nothing_was_compared_is_said(report: Report) -> None:
    assert report.facts["shift"] is None
    reason = "The card names neither unlabelled images nor a hold-out of its own"
    assert reason in report.page
    assert reason in report.said


def test_names_are_escaped(report: Report) -> None:
    assert "<b>only</b>" not in report.page
    assert "&lt;b&gt;only&lt;/b&gt;" in report.page
