"""Corrections are applied to copies, and read back by pycocotools as what was asked for."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from analysis.label_errors.confident_learning import Suspect
from analysis.label_errors.corrections import COLUMNS, apply_list, csv_rows, read_list
from trainables.data.card import DataCard, read_card
from trainables.data.index import SegIndex
from trainables.data.reader import read

SQUARE = [[1, 1, 5, 1, 5, 5, 1, 5]]
Data = tuple[DataCard, SegIndex]


@pytest.fixture
def data(tmp_path: Path) -> Data:
    """Two images of 8 x 6, one in train and one in val; annotation ids begin at 7 in each file."""
    for role, name in (("train", "a, b.png"), ("val", "c.png")):
        Image.fromarray(np.zeros((6, 8, 3), np.uint8)).save(tmp_path / name)
        shape = {"image_id": 3, "category_id": 2, "segmentation": SQUARE, "area": 16, "iscrowd": 0}
        content = {
            "images": [{"id": 3, "file_name": name, "height": 6, "width": 8}],
            "annotations": [{"id": 7, **shape}, {"id": 9, **shape, "note": "kept"}],
            "categories": [{"id": 2, "name": "Paper"}, {"id": 5, "name": 'Glass, "green"'}],
            "info": {"year": 2026},
        }
        (tmp_path / f"{role}.json").write_text(json.dumps(content), encoding="utf-8")
    (tmp_path / "data.yaml").write_text("name: two\ntrain: train.json\nval: val.json\n", encoding="utf-8")
    card = read_card(tmp_path / "data.yaml")
    return card, read(card)


def suspect(kind: Any, **changes: Any) -> Suspect:
    values: dict[str, Any] = {
        "image_id": "a, b.png",
        "annotation_id": 7,
        "given": "Paper",
        "suggested": 'Glass, "green"',
    }
    values |= {"suspicion": 0.75, "area_px": 16, "box": (1, 1, 4, 4)}
    return Suspect(kind=kind, **(values | changes))


def added(mask: np.ndarray) -> Suspect:
    counts = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode("ascii")
    return suspect("add", annotation_id=None, image_id="c.png", counts=counts)


def applied(data: Data, suspects: list[Suspect], folder: Path) -> dict[str, int]:
    folder.mkdir()
    (folder / "list.csv").write_text(csv_rows(suspects), encoding="utf-8")
    return apply_list(*data, read_list(folder / "list.csv", data[1]), folder)


def test_a_list_is_read_back_as_the_suspects_that_were_written(tmp_path: Path, data: Data) -> None:
    suspects = [suspect("relabel"), suspect("remove", annotation_id=9), added(np.eye(6, 8) > 0)]
    (tmp_path / "list.csv").write_text(csv_rows(suspects), encoding="utf-8")
    rows = read_list(tmp_path / "list.csv", data[1])
    assert rows == list(csv.DictReader(csv_rows(suspects).splitlines()))
    assert tuple(rows[0]) == COLUMNS
    assert [row["suggested"] for row in rows] == ['Glass, "green"'] * 3


def test_every_action_changes_its_own_annotation_alone(tmp_path: Path, data: Data) -> None:
    mask = np.zeros((6, 8), bool)
    mask[2:4, 3:7] = True
    out = tmp_path / "fixed"
    done = applied(data, [suspect("relabel"), suspect("remove", annotation_id=9), added(mask)], out)
    assert done == {"relabel": 1, "remove": 1, "add": 1}
    train, val = (COCO(str(out / f"{role}.json")) for role in ("train", "val"))
    assert {n: train.cats[a["category_id"]]["name"] for n, a in train.anns.items()} == {7: 'Glass, "green"'}
    assert train.anns[7]["segmentation"] == SQUARE
    assert sorted(val.anns) == [7, 9, 10]
    np.testing.assert_array_equal(val.annToMask(val.anns[10]), mask)
    assert (val.anns[10]["area"], val.anns[9]["note"]) == (8, "kept")
    assert val.dataset["info"] == {"year": 2026}


def test_a_role_without_corrections_keeps_its_own_file_and_originals_are_untouched(tmp_path: Path, data: Data) -> None:
    before = {role: (tmp_path / f"{role}.json").read_bytes() for role in ("train", "val")}
    applied(data, [suspect("relabel")], tmp_path / "fixed")
    assert {role: (tmp_path / f"{role}.json").read_bytes() for role in ("train", "val")} == before
    card = yaml.safe_load((tmp_path / "fixed" / "data.yaml").read_text(encoding="utf-8"))
    assert Path(card["train"][0]["coco"]) == tmp_path / "fixed" / "train.json"
    index = read(read_card(tmp_path / "fixed" / "data.yaml"))
    assert [image.path for image in index.images] == [image.path for image in data[1].images]
    assert index.fingerprint != data[1].fingerprint


def test_all_wrong_rows_are_named_at_once(tmp_path: Path, data: Data) -> None:
    wrong = [
        suspect("burn", image_id="c.png"),
        suspect("relabel", image_id="x"),
        suspect("remove", annotation_id=8),
        suspect("relabel"),
    ]
    wrong += [suspect("remove"), suspect("relabel", annotation_id=9, suggested="Ghost"), added(np.eye(5, 5) > 0)]
    (tmp_path / "list.csv").write_text(csv_rows(wrong), encoding="utf-8")
    with pytest.raises(ValueError, match="action must be one of") as raised:
        read_list(tmp_path / "list.csv", data[1])
    lines = str(raised.value).splitlines()
    assert [line.split("list.csv:")[1].split(":")[0] for line in lines] == ["2", "3", "4", "6", "7", "8"]


def test_more_wrong_rows_than_can_be_read_are_counted(tmp_path: Path, data: Data) -> None:
    (tmp_path / "list.csv").write_text(csv_rows([suspect("burn")] * 53), encoding="utf-8")
    with pytest.raises(ValueError, match=r"and 3 more rows$"):
        read_list(tmp_path / "list.csv", data[1])


@pytest.mark.parametrize("text", ["action,image_id\n", "", "\xff\xfe"])
def test_a_file_that_is_no_list_is_refused(tmp_path: Path, data: Data, text: str) -> None:
    (tmp_path / "list.csv").write_bytes(text.encode("latin1"))
    with pytest.raises(ValueError, match=r"list\.csv: the list"):
        read_list(tmp_path / "list.csv", data[1])


def test_the_cards_own_files_are_never_overwritten(tmp_path: Path, data: Data) -> None:
    with pytest.raises(ValueError, match="must not hold the original files"):
        apply_list(*data, [{"action": "remove", "image_id": "c.png", "annotation_id": "7"}], tmp_path)
    assert len(COCO(str(tmp_path / "val.json")).anns) == 2
