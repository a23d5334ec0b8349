"""Commands on a card of masks: what they write is what they write for the same set as COCO."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from factories import make_header
from mask_sets import made_label, write_both
from PIL import Image
from typer.testing import CliRunner

from analysis import cleanse, eda, mix, split
from analysis.external.members import read_labels
from trainables.data.card import read_card
from trainables.data.image_file import read_image
from trainables.data.label_sources import label_source
from trainables.data.reader import read
from trainables.logits.store import LogitWriter

RUNNER = CliRunner()
KINDS = ("masks", "coco")


@pytest.fixture(scope="module")
def cards(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return dict(zip(KINDS, write_both(tmp_path_factory.mktemp("set"), 24), strict=True))


def run(command: Any, *arguments: object, code: int = 0) -> str:
    result = RUNNER.invoke(command.app, [str(each) for each in arguments])
    assert result.exit_code == code, result.output
    return result.output


def test_split_deals_every_image(cards: dict[str, Path], tmp_path: Path) -> None:
    """That parts and folds are the same as those of COCO is the contract of label sources."""
    out = tmp_path / "split.json"
    run(split, "--data", cards["masks"], "--out", out, "--folds", 3, "--cache-dir", tmp_path / "cache")
    content = json.loads(out.read_text())
    assert sum(len(content[part]) for part in ("train", "val", "holdout")) == 24
    assert sum(map(len, content["folds"])) == len(content["train"]) + len(content["val"])


def test_eda_finds_the_same(cards: dict[str, Path], tmp_path: Path) -> None:
    facts = []
    for kind, card in cards.items():
        run(eda, "--data", card, "--out", tmp_path / f"{kind}.html", "--workers", 1)
        facts.append(json.loads((tmp_path / f"{kind}.json").read_text()))
    assert facts[0].pop("fingerprint") != facts[1].pop("fingerprint")
    assert facts[0] == facts[1]
    assert facts[0]["num_annotations"] == 32


def test_mix_draws_the_same(cards: dict[str, Path], tmp_path: Path) -> None:
    more = ("--num-images", 4, "--size-px", 64, "--kind", "mosaic", "--kind", "copy_paste")
    for kind, card in cards.items():
        run(mix, "--data", card, "--out", tmp_path / kind, *more)
    first, second = (read(read_card(tmp_path / kind / "data.yaml")) for kind in KINDS)
    for one, other in zip(first.images, second.images, strict=True):
        np.testing.assert_array_equal(read_image(one.path), read_image(other.path))
        np.testing.assert_array_equal(label_source(first, one).label(), label_source(second, other).label())


def suspects_of(card: Path, folder: Path) -> list[dict[str, str]]:
    """Of models that believe in class 2 wherever class 1 is drawn in the first four images."""
    index = read(read_card(card))
    header = make_header("0", classes=index.classes, stride=1, data_fingerprint=index.fingerprint)
    with LogitWriter(folder / "logits", header) as writer:
        for n, record in enumerate(index.images):
            label = made_label(n)
            believed = np.where((label == 1) & (n < 4), 2, label)
            logits = 4 * np.eye(3, dtype=np.float16)[believed].transpose(2, 0, 1)
            writer.add(record.image_id, logits, label.shape)
    run(cleanse, "--data", card, "--logits", folder / "logits", "--out", folder, "--cache-dir", folder / "cache")
    with (folder / "suspects.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_cleanse_ranks_the_same(cards: dict[str, Path], tmp_path: Path) -> None:
    first, second = (suspects_of(card, tmp_path / kind) for kind, card in cards.items())
    assert {row["action"] for row in first} == {"relabel"}
    ids = ("annotation_id",)
    assert [{k: v for k, v in row.items() if k not in ids} for row in first] == [
        {k: v for k, v in row.items() if k not in ids} for row in second
    ]


def test_corrections_are_written_as_masks(cards: dict[str, Path], tmp_path: Path) -> None:
    card, out = cards["masks"], tmp_path / "corrected"
    listed = tmp_path / "list.csv"
    rows = ["relabel,images/01.jpg,1,glass,paper,", "remove,images/02.jpg,1,paper,Background,"]
    text = "action,image_id,annotation_id,given,suggested,rle\r\n" + "\r\n".join(rows)
    listed.write_bytes(b"\xef\xbb\xbf" + text.encode())  # as Excel saves it
    assert "1 relabel, 1 remove" in run(cleanse, "--data", card, "--apply", listed, "--out", out)
    index = read(read_card(out / "data.yaml"))
    for n, record in enumerate(index.images):
        expected = made_label(n)
        if n in (1, 2):
            expected = np.minimum(expected, 1) if n == 1 else np.zeros_like(expected)
        np.testing.assert_array_equal(label_source(index, record).label(), expected)
    np.testing.assert_array_equal(np.asarray(Image.open(card.parent / "masks" / "01.png")), made_label(1))


def test_labels_for_foreign_predictions_are_the_same(cards: dict[str, Path]) -> None:
    first, second = (read_labels(card) for card in cards.values())
    for record in first.index.images:
        np.testing.assert_array_equal(first.label(record.image_id), second.label(record.image_id))
