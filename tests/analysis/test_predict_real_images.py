"""Real photographs in every format: each holds the same label maps, and the CSV scores as a plain scorer does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from factories import make_tiny_run
from numpy.typing import NDArray
from PIL import Image
from pycocotools.coco import COCO
from safetensors.numpy import load_file
from typer.testing import CliRunner

from analysis.bundle.export import BundleFacts, export
from analysis.bundle.manifest import read_bundle
from analysis.predict import app
from trainables.data.card import read_card
from trainables.data.reader import read
from trainables.metrics import confusion, miou

Label = NDArray[np.integer[Any]]  # (H,W)
SUFFIXES = {"png": ".png", "overlay": ".jpg", "probabilities": ".safetensors"}


def painted(coco: COCO, image_id: int) -> Label:
    """The truth (H,W) by pycocotools: category ids are class indices, larger masks lie under smaller ones."""
    masks = [(coco.annToMask(one) == 1, one["category_id"]) for one in coco.imgToAnns[image_id]]
    label = np.zeros((coco.imgs[image_id]["height"], coco.imgs[image_id]["width"]), np.int64)
    for mask, k in sorted(masks, key=lambda pair: -pair[0].sum()):
        label[mask] = k
    return label


def halved(label: Label) -> Label:
    """512 x 512 -> 256 x 256 by nearest neighbour."""
    assert label.shape == (512, 512)
    return label[::2, ::2]


def score_of(csv: Path, truths: dict[str, Label], num_classes: int) -> float:
    """The competition's score: the mean over the true classes of the IoU at 256 x 256, all images together."""
    head, *rows = csv.read_text(encoding="utf-8").splitlines()
    assert head == "image_id,PredictionString"
    masks = {name: np.array(text.split(" "), int) for name, text in (row.split(",") for row in rows)}
    assert list(masks) == list(truths)
    predicted, true = np.concatenate(list(masks.values())), np.concatenate([t.ravel() for t in truths.values()])
    each = [(predicted == k, true == k) for k in range(num_classes)]
    return float(np.mean([(p & t).sum() / (p | t).sum() for p, t in each if t.any()]))


@pytest.mark.slow
def test_every_format_holds_the_same_labels_and_the_csv_its_score(shared_data: Path, tmp_path: Path) -> None:
    data = shared_data / "trash_sample"
    index = read(read_card(data / "data.yaml"))
    run = make_tiny_run(tmp_path / "run", classes=index.classes)
    bundle = export(BundleFacts("trash", "data", "split"), run.ensemble, run.weights, tmp_path / "bundle")
    for name in ("png", "rle", "overlay", "probabilities", "csv"):
        args = ["--bundle", bundle, "--out", tmp_path / name, "--format", name, "--device", "cpu", data / "val.json"]
        done = CliRunner().invoke(app, [str(arg) for arg in args])
        assert done.exit_code == 0, done.output

    truth, found = COCO(str(data / "val.json")), COCO(str(tmp_path / "rle" / "predictions.json"))
    palette = np.array(read_bundle(bundle).manifest.palette)
    truths, labels = dict[str, Label](), dict[str, Label]()
    for entry in truth.imgs.values():
        name = entry["file_name"]
        files = {form: (tmp_path / form / name).with_suffix(suffix) for form, suffix in SUFFIXES.items()}
        label = labels[name] = np.array(Image.open(files["png"]))
        truths[name] = painted(truth, entry["id"])
        same = next(image["id"] for image in found.imgs.values() if image["file_name"] == name)
        np.testing.assert_array_equal(painted(found, same), label)
        probabilities = load_file(files["probabilities"])["probabilities"].astype(np.float32)  # (K,H,W)
        chosen = np.take_along_axis(probabilities, label[None].astype(int), axis=0)[0]
        assert (probabilities.max(axis=0) - chosen).max() <= 2**-11  # float16's rounding
        photo, seen = (np.array(Image.open(path), int) for path in (data / name, files["overlay"]))
        mixed = np.where(label[..., None] > 0, (photo + palette[label]) / 2, photo)
        assert np.abs(seen - mixed).mean() < 8  # JPEG

    small = {name: halved(label) for name, label in truths.items()}
    counts = sum(
        confusion(small[name].astype(np.uint8), halved(label), index.num_classes) for name, label in labels.items()
    )
    score = score_of(tmp_path / "csv" / "submission.csv", small, index.num_classes)
    assert score == pytest.approx(float(miou(counts)), abs=1e-12)
    assert len({k for label in labels.values() for k in np.unique(label)}) > 1
