"""COCO files and data cards: read, or refused with a message."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fuzz.hostile import as_json, as_yaml, damaged, examples, reads_or_refuses, spoilt
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from trainables.data.card import read_card
from trainables.data.reader import read

SQUARE = [1.0, 1.0, 5.0, 1.0, 5.0, 4.0, 1.0, 4.0]
COCO: dict[str, Any] = {
    "images": [
        {"id": 1, "file_name": "a_1.png", "height": 6, "width": 8},
        {"id": 2, "file_name": "b/a_2.png", "height": 9, "width": 12},
    ],
    "annotations": [
        {"id": 1, "image_id": 1, "category_id": 1, "segmentation": [SQUARE], "area": 12, "iscrowd": 0},
        {
            "id": 2,
            "image_id": 2,
            "category_id": 2,
            "segmentation": {"size": [9, 12], "counts": [20, 30, 58]},
            "area": 30,
        },
        {"id": 3, "image_id": 2, "category_id": 1, "segmentation": [SQUARE, SQUARE], "area": 24, "iscrowd": 1},
    ],
    "categories": [{"id": 1, "name": "paper", "supercategory": "trash"}, {"id": 2, "name": "glass"}],
    "licenses": [{"id": 1, "name": "CC"}],
}
CARDS: list[dict[str, Any]] = [
    {"train": "train.json", "val": {"coco": "val.json", "images": "b"}, "group": "^(a)", "ignore": ["paper"]},
    {"train": [{"images": "b", "masks": "m"}], "classes": ["background", "cell"], "unlabelled": "b", "ignore_index": 9},
    {"name": "n", "root": ".", "train": "train.json", "classes": {"#804080": "road", "0, 0, 0": "x"}, "turns": True},
    {"train": {"images": "b", "masks": "m"}, "classes": "names.yaml", "flip_pairs": [["a", "b"]], "background": False},
]
SNIPPETS = (b"&a ", b"*a", b"<<: *a\n", b"!!int ", b"!!timestamp 2026-13-45", b"0b_", b"- ", b": ", b"[", b"{", b"? ")
SNIPPETS += (
    b"\t",
    b"\xff",
    b"'",
    b"\n",
    b"!!binary x",
    b".inf",
    b"%YAML 9\n---\n",
    b'"\\ud800"',
    b"---\n",
    b"#",
    b"|\n",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    (root / "b").mkdir()
    (root / "m").mkdir()
    for entry in COCO["images"]:
        pixels = np.zeros((entry["height"], entry["width"], 3), np.uint8)
        Image.fromarray(pixels).save(root / entry["file_name"])
    Image.fromarray(np.eye(9, 12, dtype=np.uint8)).save(root / "m" / "a_2.png")
    (root / "data.yaml").write_text("train: train.json\ngroup: '^(a)'\n", encoding="utf-8")
    (root / "names.yaml").write_text("[a, b]", encoding="utf-8")
    (root / "train.json").write_bytes(as_json(COCO))
    return root


def changed(**changes: Any) -> dict[str, Any]:
    return COCO | {key: [COCO[key][0] | value, *COCO[key][1:]] for key, value in changes.items()}


@settings(max_examples=examples())
@given(damaged(COCO).map(as_json) | spoilt(as_json(COCO)))
@example(as_json(COCO))
@example(as_json(changed(images={"file_name": "a" * 300})))
@example(as_json(changed(images={"file_name": "\ud800"})))
@example(as_json(changed(images={"file_name": "~nobody/a.png"})))
@example(as_json(changed(images={"height": -(2**63)})))
@example(as_json(changed(annotations={"segmentation": [[10**400] * 6]})))
@example(as_json(changed(categories={"supercategory": ["trash"]})))  # found by fuzzing: no key of a set
def test_coco(folder: Path, raw: bytes) -> None:
    (folder / "fuzzed.json").write_bytes(raw)
    (folder / "fuzzed.yaml").write_text("train: fuzzed.json\n", encoding="utf-8")
    reads_or_refuses(lambda: read(read_card(folder / "fuzzed.yaml")))


cards = st.sampled_from(CARDS)


@settings(max_examples=examples())
@given(cards.flatmap(damaged).map(as_yaml) | cards.map(as_yaml).flatmap(lambda raw: spoilt(raw, SNIPPETS)))
@example(b"train: a.json\nname: 2026-13-45")
@example(b"train: ~nobody.at.all/a.json")
@example(b'root: "\\0"\ntrain: a.json')
@example(b"train: a.json\ngroup: 'a{99999999999}'")
@example(b"train: {images: b, masks: m}\nclasses: " + b"[" * 500)
@example(b"train: {images: b, masks: m}\nclasses: [background, cell]\nignore_index: []")  # found by fuzzing: no key
def test_card(folder: Path, raw: bytes) -> None:
    (folder / "card.yaml").write_bytes(raw)
    reads_or_refuses(lambda: read_card(folder / "card.yaml"))


@settings(max_examples=examples())
@given(spoilt(b"- a\n- b: 1\n", SNIPPETS), st.sampled_from([".yaml", ".json", ".txt"]))
def test_table_of_classes(folder: Path, raw: bytes, suffix: str) -> None:
    (folder / f"table{suffix}").write_bytes(raw)
    (folder / "table-card.yaml").write_bytes(as_yaml(CARDS[3] | {"classes": f"table{suffix}"}))
    reads_or_refuses(lambda: read_card(folder / "table-card.yaml"))
