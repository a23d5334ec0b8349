"""EDA: what the survey counts is what the labels hold, and the page is one offline file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco_mask
from typer.testing import CliRunner

from analysis.dataset.statistics import collect_statistics
from analysis.dataset.summary import class_rows
from analysis.eda import app
from trainables.data.card import read_card
from trainables.data.index import Annotation, ImageRecord, SegIndex
from trainables.data.raster import rasterise, rle_runs, segmentation_mask
from trainables.data.reader import read
from trainables.data.synthetic.dataset import write_synthetic

RUNNER = CliRunner()


@pytest.fixture(scope="module")
def card(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_synthetic(tmp_path_factory.mktemp("eda") / "data", num_images=40, image_px=96, seed=4)


def test_the_survey_counts_what_the_labels_hold(card: Path) -> None:
    index = read(read_card(card))
    seen = collect_statistics(index, num_workers=1)
    for n, record in enumerate(index.images):
        label = rasterise(record, index.ignore_index, background=index.background)
        assert seen.class_pixels[n].tolist() == np.bincount(label.ravel(), minlength=256)[: index.num_classes].tolist()
        own = sorted(int(segmentation_mask(a.segmentation, 96, 96).sum()) for a in record.annotations)
        assert sorted(seen.annotation_px[seen.annotation_image == n].tolist()) == own
    shown = (seen.class_pixels > 0).sum(axis=0)
    cells = seen.heat.mean(axis=(1, 2)) * shown * 96 * 96
    np.testing.assert_allclose(cells, seen.class_pixels.sum(axis=0), rtol=1e-3)


@pytest.mark.parametrize("form", ["string", "bytes", "list"])
def test_runs_of_every_form_are_painted_where_the_masks_lie(form: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    masks = [rng.random((37, 52)) < share for share in (0.5, 0.02, 1.0, 0.3)]
    masks[2][:, :30] = False
    annotations = []
    for n, mask in enumerate(masks):
        rle = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
        counts = {"string": rle["counts"].decode(), "bytes": rle["counts"], "list": rle_runs(rle["counts"]).tolist()}
        segmentation: dict[str, Any] = {"size": [37, 52], "counts": counts[form]}
        annotations.append(Annotation(n, n, segmentation, float(mask.sum()), iscrowd=False))
    path = tmp_path / "a.png"
    cv2.imwrite(str(path), np.zeros((37, 52, 3), np.uint8))
    record = ImageRecord("a.png", path, 37, 52, "a.png", "train", tuple(annotations))
    seen = collect_statistics(SegIndex("s", (record,), ("a", "b", "c", "d"), "f", grouped=False), num_workers=1)
    label = rasterise(record, 255, background=False)
    assert seen.class_pixels[0].tolist() == [int((label == k).sum()) for k in range(4)]
    assert seen.ignored_pixels[0] == (label == 255).sum()


def test_overlaps_duplicates_and_sizes(card: Path, tmp_path: Path) -> None:
    def square(x: float, side: float) -> list[list[float]]:
        return [[x, 10, x + side, 10, x + side, 10 + side, x, 10 + side]]

    content = json.loads((card.parent / "train.json").read_text())
    image = content["images"][0]
    shapes = [(1, square(5, 60)), (2, square(5, 60)), (3, square(20, 20)), (4, square(80, 10))]
    content["images"] = [image]
    content["annotations"] = [
        {"id": n, "image_id": image["id"], "category_id": k, "segmentation": s, "area": (s[0][2] - s[0][0]) ** 2}
        for n, (k, s) in enumerate(shapes)
    ]
    (card.parent / "one.json").write_text(json.dumps(content))
    (card.parent / "one.yaml").write_text("train: one.json\n")
    index = read(read_card(card.parent / "one.yaml"))
    seen = collect_statistics(index)
    assert seen.overlaps == {(1, 2): 1, (1, 3): 1, (2, 3): 1}
    assert seen.duplicates == [(image["file_name"], 0, 1)]
    rows = class_rows(index, seen)
    assert rows[1]["sizes"] == {
        "theirs": {"small": 0, "medium": 1, "large": 0},
        "coco": {"small": 0, "medium": 1, "large": 0},
    }
    assert rows[3]["sizes"]["coco"]["small"] == 1
    assert rows[1]["covered"] == 1


def test_one_command_writes_a_page_and_its_facts(card: Path, tmp_path: Path) -> None:
    result = RUNNER.invoke(app, ["--data", str(card), "--out", str(tmp_path / "eda.html"), "--workers", "1"])
    assert result.exit_code == 0, result.output
    facts = json.loads((tmp_path / "eda.json").read_text())
    assert facts["num_images"] == 40
    assert facts["images_by_part"].keys() == {"train", "val", "holdout"}
    assert sum(row["share"] for row in facts["classes"]) == pytest.approx(1)
    page = (tmp_path / "eda.html").read_text()
    assert "default-src 'none'" in page
    assert 'src="http' not in page
    holdout = read(read_card(card)).ids("holdout")
    gallery = page[page.index('id="gallery"') :]
    assert not any(name in gallery for name in holdout)  # its labels stay sealed


def test_names_are_escaped(card: Path, tmp_path: Path) -> None:
    content = json.loads((card.parent / "train.json").read_text())
    content["categories"][0]["name"] = "<script>alert(1)</script>"
    (card.parent / "evil.json").write_text(json.dumps(content))
    (card.parent / "evil.yaml").write_text("train: evil.json\n")
    RUNNER.invoke(app, ["--data", str(card.parent / "evil.yaml"), "--out", str(tmp_path / "e.html"), "--workers", "1"])
    assert "<script>alert(1)" not in (tmp_path / "e.html").read_text()


def test_mistakes_are_one_message_and_exit_2(card: Path, tmp_path: Path) -> None:
    for asked, message in (
        (["--data", str(tmp_path / "none.yaml")], "cannot be read"),
        (["--data", str(card), "--out", str(tmp_path / "eda.pdf")], "must be an .html file"),
        (["--data", str(card), "--split", str(card)], "split file cannot be read"),
    ):
        result = RUNNER.invoke(app, asked)
        assert result.exit_code == 2
        assert message in result.output
        assert "Traceback" not in result.output
