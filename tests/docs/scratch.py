"""The folder in which the commands of a page are run: tiny data, a finished run and whatever else pages name by
example."""

from __future__ import annotations

import csv
import json
import shutil
import zipfile
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from factories import with_shipped
from finished_runs import (
    TINY_SPACE,
    make_finished_run,
    search_without_ray,
    tiny_recipe,
    write_card_with_unlabelled,
    write_plain_logits,
    write_untrained,
)
from foreign_sets import labelme_shape, rectangle, write_labelme
from mask_sets import write_images

from analysis.ensembling.result import EnsembleResult
from analysis.external.members import read_labels
from search import pipeline
from search.engine.study_file import open_study
from search.observers.trial_row import study_rows
from search.observers.trials_csv import write_csv
from search.run_dir import RunDir, read_json, write_json
from search.stages.stage import Context, Stage
from search.students.finished_run import open_finished

CACHE = "cache"
DATA_SETS = ("photographs", "aerial", "cells")  # of which there is a run each
BACKBONES = ("test_convnext", "test_resnet")


def write_scratch(root: Path) -> None:
    """Fill an empty folder."""
    card = write_card_with_unlabelled(root / "drawn")
    shutil.copytree(card.parent, root, dirs_exist_ok=True)
    pictures = sorted(root.glob("batch_*/*.jpg"))
    _write_photographs(root, pictures)
    _write_competition(root, pictures[:3])
    _write_members(root)
    _write_runs(root, root / "data.yaml")


def _write_photographs(root: Path, pictures: list[Path]) -> None:
    """photos/, a data set without a card; labelled/, LabelMe's files; and other ways to give photographs."""
    shutil.copytree(
        root / "drawn" / "data", root / "photos", ignore=shutil.ignore_patterns("data.yaml", "extra", "synthetic.json")
    )
    (root / "photos" / "new").mkdir()
    for number, picture in enumerate(pictures[:2]):
        shutil.copy(picture, root / "photos" / "new" / f"new-{number}.jpg")
    write_images(root / "labelled", ["one.jpg", "two.jpg"])
    for name in ("one", "two"):
        shape = labelme_shape("Paper", rectangle(2, 2, 9, 7))
        write_labelme(root / "labelled" / f"{name}.json", f"{name}.jpg", [shape])
    shutil.copy(pictures[0], root / "photo.jpg")
    with zipfile.ZipFile(root / "more.zip", "w") as archive:
        archive.write(pictures[1], "more.jpg")


def _write_competition(root: Path, pictures: list[Path]) -> None:
    """test.json and test_images/ without labels, and the sample submission of a competition."""
    images = [{"id": n, "file_name": f"{n}.jpg", "height": 64, "width": 64} for n in range(len(pictures))]
    (root / "test_images").mkdir()
    for image, picture in zip(images, pictures, strict=True):
        shutil.copy(picture, root / "test_images" / str(image["file_name"]))
    (root / "test.json").write_text(json.dumps({"images": images, "annotations": [], "categories": []}))
    with (root / "sample_submission.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("image_id", "PredictionString"), *((one["file_name"], "") for one in images)])


def _write_members(root: Path) -> None:
    """A, B and C: what other tools predicted of the labelled images."""
    labels, rng = read_labels(root / "data.yaml"), np.random.default_rng(0)
    for record in labels.index.images:
        if record.role not in ("val", "holdout"):
            continue
        label = labels.label(record.image_id)
        for member in "ABC":
            path = (root / member / record.image_id).with_suffix(".npy")
            path.parent.mkdir(parents=True, exist_ok=True)
            noise = rng.normal(size=(labels.index.num_classes, *label.shape)).astype(np.float32)
            np.save(path, noise + 2 * (np.arange(len(noise))[:, None, None] == label))


def _write_runs(root: Path, card: Path) -> None:
    """runs/a, finished, with folds, whose verdict ships an ensemble; runs/b, the same; and a run per data set."""
    run = RunDir(root / "runs" / "a")
    recipes = [tiny_recipe(backbone, seed) for seed, backbone in enumerate(BACKBONES)]
    make_finished_run(run, card, TINY_SPACE + "folds: {num: 2}\n", recipes, write_untrained)
    with_shipped(EnsembleResult.read(run.ensemble_json), "geometric_mean").write(run.ensemble_json)
    (run.root.parent / CACHE).rename(root / CACHE)
    context = open_finished(run, root / CACHE, say=print, now=lambda: datetime.now(UTC)).context
    for stage in (Stage.bundle, Stage.report):
        pipeline.STAGES[stage](context)
        record = read_json(run.run_json)
        write_json(run.run_json, record | {"stages": record["stages"] | {stage: record["started"]}})
    write_csv(run.trials_csv, study_rows(open_study(run.study_db), run.root), context.data.index.classes)
    for name in ("b", *DATA_SETS):
        copy = RunDir(shutil.copytree(run.root, run.root.with_name(name)))
        other = {"data_fingerprint": name} if name in DATA_SETS else {}
        write_json(copy.run_json, read_json(copy.run_json) | other)


def logits_without_ray(context: Context) -> None:
    """What `--until logits` leaves, of an untrained network."""
    data = context.data
    trials = search_without_ray(context.run, [tiny_recipe(BACKBONES[0], 0)], data.cache, data.split, write_untrained)
    write_plain_logits(context.run, trials, data.cache, data.split)
