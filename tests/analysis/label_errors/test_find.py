"""Suspects of several runs: the models' mean is judged, and only where no model has seen the image."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from factories import make_header, make_store
from scipy.special import softmax

from analysis.label_errors.confident_learning import class_confidence, find_suspects
from analysis.label_errors.corrections import csv_rows
from trainables.data.raster import rasterise
from trainables.metrics import confusion, miou


def text_of(out: Path) -> str:
    return (out / "suspects.csv").read_text(encoding="utf-8")


def test_the_list_is_that_of_the_models_mean_probabilities(judged: Any) -> None:
    """The logits lie at stride 1, so that a softmax is all that is between them and the judgement."""
    ids = [image.image_id for image in judged.index.images if image.image_id in judged.logits["a"]]
    labels = {i.image_id: rasterise(i, 255, background=True) for i in judged.index.images}
    mean = {
        i: np.mean([softmax(one[i].astype(np.float32), axis=0) for one in judged.logits.values()], axis=0) for i in ids
    }
    confidence = class_confidence(judged.index, ids, mean.__getitem__, labels.__getitem__)
    ranking = find_suspects(judged.index, ids, mean.__getitem__, labels.__getitem__, confidence)
    expected, found = (
        list(csv.DictReader(text.splitlines())) for text in (csv_rows(ranking.suspects), text_of(judged.out))
    )
    key = ("action", "image_id", "annotation_id", "suggested")
    assert {tuple(row[k] for k in key) for row in found} == {tuple(row[k] for k in key) for row in expected}
    facts = json.loads((judged.out / "suspects.json").read_text(encoding="utf-8"))
    assert facts["images"] == pytest.approx(ranking.image_scores, abs=2e-3)
    assert facts["num_images"] == len(ids)
    counts = sum(confusion(labels[i], mean[i].argmax(axis=0).astype(np.uint8), 11) for i in ids)
    assert facts["miou"] == pytest.approx(float(miou(counts)), abs=2e-3)
    assert sum(facts["counts"].values()) == len(found)


def test_planted_annotations_are_suspected(judged: Any) -> None:
    content = json.loads((judged.card.parent / "train.json").read_text(encoding="utf-8"))
    planted = {str(entry["id"]) for entry in content["annotations"][::5] if entry["area"] > 100}
    rows = list(csv.DictReader(text_of(judged.out).splitlines()))
    assert planted <= {row["annotation_id"] for row in rows if row["action"] == "relabel"}


def test_folders_of_logits_are_judged_as_their_runs_are(judged: Any, tmp_path: Path) -> None:
    asked = [value for folder in judged.folders for value in ("--logits", folder)]
    judged.again(tmp_path, "--data", judged.card, *asked)
    assert text_of(tmp_path) == text_of(judged.out)


def test_what_cannot_be_judged_is_refused_with_its_reason(judged: Any, tmp_path: Path) -> None:
    index, label = judged.index, np.zeros((11, 64, 64), np.float16)
    strange = make_header("x", classes=index.classes, data_fingerprint=index.fingerprint)
    make_store(tmp_path / "strange", strange, {"nowhere.jpg": label}, (64, 64))
    given = "--data", judged.card
    for asked, message in (
        (given, "suspects are ranked by out-of-sample predictions, got none"),
        (("--run", tmp_path), "run.json must be a JSON file, got none"),
        (("--logits", judged.folders[0]), "the data card must be a file"),
        ((*given, "--logits", tmp_path / "strange"), "image 'nowhere.jpg', which is not in the data"),
    ):
        assert message in judged.again(tmp_path / "out", *asked)
    assert not (tmp_path / "out").exists()
