"""The CSV of a competition: scored by a scorer of this file's own, and refused where it is not what was asked for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from factories import TinyRun
from PIL import Image
from typer.testing import CliRunner

from analysis.bundle.manifest import read_bundle
from analysis.bundle.predictor import Predictor
from analysis.prediction.competition_csv import check_file, nearest, write_submission
from analysis.prediction.job import CsvLayout, csv_layout
from search.cli import app
from trainables.data.card import DataProblems

SMALL = CsvLayout(height_px=2, width_px=3)
LABELS = {"a.png": np.arange(24, dtype=np.uint8).reshape(4, 6) % 5, "b,c.png": np.full((1, 1), 4, np.uint8)}


def run(*args: object) -> Any:
    return CliRunner().invoke(app, [str(arg) for arg in args])


def scored(path: Path, truths: dict[str, Any], num_classes: int) -> float:
    """mIoU of a submission by plain Python, pixel by pixel; truths are lists of rows, at their own size."""
    lines = path.read_text(encoding="utf-8").split("\n")
    assert (lines[0], lines[-1]) == ("image_id,PredictionString", "")
    assert sorted(line.partition(",")[0] for line in lines[1:-1]) == sorted(truths)
    both, either = [0] * num_classes, [0] * num_classes
    for line in lines[1:-1]:
        name, _, numbers = line.partition(",")
        predicted, truth = [int(number) for number in numbers.split(" ")], truths[name]
        assert len(predicted) == 65_536
        for i, k in enumerate(predicted):
            t = truth[(i // 256) * len(truth) // 256][(i % 256) * len(truth[0]) // 256]
            both[k] += k == t
            either[k] += 1
            either[t] += k != t
    return sum(b / e for b, e in zip(both, either, strict=True) if e) / sum(e > 0 for e in either)


def test_a_submission_scores_as_the_labels_that_it_was_made_of(
    tiny_run: TinyRun, tiny_bundle: Path, photos: Path, tmp_path: Path
) -> None:
    listed = {"images": [{"id": n, "file_name": name} for n, name in enumerate(("b/d.png", "a.png", "b/c.png"))]}
    (tmp_path / "test.json").write_text(json.dumps(listed), encoding="utf-8")
    args = ("--bundle", tiny_bundle, "--out", tmp_path / "out", "--images", photos, "--device", "cpu")
    done = run(
        "submission", "write", *args, "--batch-size", 1, "--expected", tmp_path / "test.json", tmp_path / "test.json"
    )
    assert done.exit_code == 0, done.output
    predictor = Predictor(read_bundle(tiny_bundle), device="cpu", batch_size=1)
    truths = {name: predictor.predict(image) for name, image in tiny_run.images.items()}
    rows = [line.partition(",")[0] for line in (tmp_path / "out" / "submission.csv").read_text().splitlines()[1:]]
    assert rows == ["b/d.png", "a.png", "b/c.png"]
    assert scored(tmp_path / "out" / "submission.csv", {k: v.tolist() for k, v in truths.items()}, 3) == 1.0
    wrong = {name: np.where(label == 1, 2, label).tolist() for name, label in truths.items()}
    assert scored(tmp_path / "out" / "submission.csv", wrong, 3) < 1.0


def test_a_mask_is_made_smaller_as_opencv_does_it() -> None:
    import cv2

    label = np.random.default_rng(0).integers(0, 11, (512, 640), dtype=np.uint8)
    expected = cv2.resize(label, (256, 256), interpolation=cv2.INTER_NEAREST)
    np.testing.assert_array_equal(nearest(label, 256, 256), expected)


def test_columns_size_and_separator_are_options(tmp_path: Path) -> None:
    layout = csv_layout("2x3", "id,mask", ";")
    write_submission(tmp_path / "s.csv", list(LABELS), LABELS.__getitem__, layout, (5, None))
    text = (tmp_path / "s.csv").read_text(encoding="utf-8")
    assert text == 'id,mask\na.png,0;2;4;2;4;1\n"b,c.png",4;4;4;4;4;4\n'


@pytest.mark.parametrize(
    ("size", "columns", "separator", "message"),
    [
        ("0", None, None, "--csv-size must be"), ("256x", None, None, "--csv-size must be"),
        ("99999", None, None, "--csv-size must be"), (None, "id", None, "--csv-columns must be two names"),
        (None, "a,a", None, "--csv-columns"), (None, None, "1", "--csv-separator"), (None, None, "", "--csv-separator"),
    ],
)  # fmt: skip
def test_options_of_a_wrong_form_are_refused(
    size: str | None, columns: str | None, separator: str | None, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        csv_layout(size, columns, separator)


def test_missing_unexpected_and_doubled_images_are_all_named(tmp_path: Path) -> None:
    with pytest.raises(DataProblems) as raised:
        write_submission(
            tmp_path / "s.csv", ["a.png", "a.png", "x.png"], LABELS.__getitem__, SMALL, (5, ["a.png", "z.png"])
        )
    said = str(raised.value)
    for words in ("'a.png' twice", "'z.png' must have a row", "'x.png' is not among the images"):
        assert words in said
    assert not list(tmp_path.iterdir())


def test_a_class_that_the_bundle_lacks_leaves_what_was_there(tmp_path: Path) -> None:
    (tmp_path / "s.csv").write_text("before", encoding="utf-8")
    with pytest.raises(ValueError, match=r"'a\.png' must have classes from 0 to 3, got '4'"):
        write_submission(tmp_path / "s.csv", list(LABELS), LABELS.__getitem__, SMALL, (4, None))
    assert (tmp_path / "s.csv").read_text(encoding="utf-8") == "before"


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("image_id", "id", "the header must be"), ("a.png", "z.png", "line 2 must be the row of 'a.png'"),
        ("0 2 4", "0 2", "must have 6 numbers, got 5"), ("4 4", "4 -1", "got '-1'"),
        ('"b,c.png",4 4 4 4 4 4\n', "", "got none of 'b,c.png'"),
    ],
)  # fmt: skip
def test_a_file_that_was_changed_is_not_a_submission(before: str, after: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "s.csv"
    write_submission(path, list(LABELS), LABELS.__getitem__, SMALL, (5, None))
    check_file(path, list(LABELS), SMALL, 5)
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace(before, after, 1), encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        check_file(path, list(LABELS), SMALL, 5)


def test_label_maps_that_are_there_become_a_submission(tiny_bundle: Path, photos: Path, tmp_path: Path) -> None:
    args = ("--bundle", tiny_bundle, "--device", "cpu", "--batch-size", 1)
    (tmp_path / "sample.csv").write_text("image_id,PredictionString\na.png,\nb/c.png,0 0\nb/d.png,\n", encoding="utf-8")
    assert run("predict", *args, "--out", tmp_path / "pngs", photos).exit_code == 0
    assert run("submission", "write", *args, "--out", tmp_path / "one", photos).exit_code == 0
    joined = ("submission", "write", "--bundle", tiny_bundle, "--expected", tmp_path / "sample.csv")
    done = run(*joined, "--predictions", tmp_path / "pngs", "--out", tmp_path / "two")
    assert done.exit_code == 0, done.output
    files = [(tmp_path / name / "submission.csv").read_bytes() for name in ("one", "two")]
    assert files[0] == files[1]
    (tmp_path / "pngs" / "a.png").unlink()
    assert (
        "'a.png' must have a row" in run(*joined, "--predictions", tmp_path / "pngs", "--out", tmp_path / "two").stderr
    )
    assert "`predict --format png` by" in run(*joined, "--predictions", tmp_path / "one", "--out", tmp_path).stderr


def test_images_that_the_card_does_not_list_are_refused_before_any_is_predicted(
    tiny_bundle: Path, photos: Path, tmp_path: Path
) -> None:
    (tmp_path / "unlabelled").mkdir()
    for name in ("a.png", "other.png"):
        Image.new("RGB", (64, 64)).save(tmp_path / "unlabelled" / name)
    card = tmp_path / "card.yaml"
    card.write_text("name: t\ntrain: train.json\nunlabelled: unlabelled\n", encoding="utf-8")
    (tmp_path / "train.json").write_text("{}", encoding="utf-8")
    args = ("--bundle", tiny_bundle, "--out", tmp_path / "out", "--device", "cpu", "--expected", card)
    done = run("predict", *args, "--format", "csv", photos)
    assert done.exit_code == 2
    for words in ("'other.png' must have a row", "'b/c.png' is not among the images"):
        assert words in done.stderr
    assert not (tmp_path / "out").exists()


def test_an_image_that_cannot_be_read_leaves_no_submission(tiny_bundle: Path, photos: Path, tmp_path: Path) -> None:
    (photos / "b" / "d.png").write_text("no image", encoding="utf-8")
    args = ("--bundle", tiny_bundle, "--out", tmp_path / "out", "--device", "cpu")
    done = run("submission", "write", *args, photos)
    assert done.exit_code == 2
    assert "could not be read, so that no submission.csv was written" in done.stderr
    assert not (tmp_path / "out" / "submission.csv").exists()


def test_options_of_the_csv_need_its_format(tiny_bundle: Path, photos: Path, tmp_path: Path) -> None:
    done = run("predict", "--bundle", tiny_bundle, "--out", tmp_path / "out", "--csv-size", 64, photos)
    assert done.exit_code == 2
    assert "go with --format csv, got png" in done.stderr
