"""Label cleansing: planted errors are ranked first, missing objects found, corrections written beside the originals."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from factories import make_header, make_store
from sklearn.metrics import average_precision_score
from typer.testing import CliRunner

from analysis.cleanse import app
from analysis.label_errors.confident_learning import Suspect, class_confidence, find_suspects
from analysis.label_errors.corrections import csv_rows, read_list
from trainables.data.card import read_card
from trainables.data.index import SegIndex
from trainables.data.raster import rasterise
from trainables.data.reader import read
from trainables.data.synthetic.dataset import write_synthetic

RUNNER = CliRunner()
STRIDE = 2


def write_logits(folder: Path, index: SegIndex, truth: dict[str, np.ndarray], split: str = "val") -> Path:
    """Logits of a mediocre model of the true labels: blurred, noisy, right in about four pixels of five."""
    rng = np.random.default_rng(0)
    fingerprint = index.fingerprint
    header = make_header("0", classes=index.classes, split=split, stride=STRIDE, data_fingerprint=fingerprint)
    logits = {}
    for image_id, label in truth.items():
        hot = (label[None, ::STRIDE, ::STRIDE] == np.arange(index.num_classes)[:, None, None]).astype(np.float32) * 3
        noisy = [plane + rng.normal(0, 2.5, plane.shape).astype(np.float32) for plane in hot]
        logits[image_id] = np.stack([cv2.GaussianBlur(plane, (5, 5), 0) for plane in noisy])
    make_store(folder, header, logits, lambda image_id: truth[image_id].shape)
    return folder


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, set[int], int]:
    """A card with 10% of its annotations relabelled and one taken out; logits of the true labels."""
    root = tmp_path_factory.mktemp("planted") / "data"
    card = write_synthetic(root, num_images=60, image_px=96, seed=2)
    true = read(read_card(card))
    truth = {i.image_id: rasterise(i, 255, background=True) for i in true.images if i.role == "train"}
    content = json.loads((root / "train.json").read_text())
    rng, seen = np.random.default_rng(0), []
    for entry in content["annotations"]:
        if entry["area"] > 60:
            seen.append(entry)
    wrong = {int(n) for n in rng.choice([e["id"] for e in seen], len(seen) // 10, replace=False)}
    for entry in content["annotations"]:
        if entry["id"] in wrong:
            entry["category_id"] = (entry["category_id"] - 1 + int(rng.integers(1, 10))) % 10 + 1
    missing = max((e for e in seen if e["id"] not in wrong), key=lambda e: e["area"])
    content["annotations"].remove(missing)
    (root / "train.json").write_text(json.dumps(content))
    logits = write_logits(root.parent / "logits", read(read_card(card)), truth)
    (root.parent / "missing.json").write_text(json.dumps(missing))
    return card, logits, wrong, int(missing["image_id"])


def test_planted_errors_are_ranked_first(planted: tuple[Path, Path, set[int], int]) -> None:
    from analysis.voting.probabilities import probabilities
    from trainables.logits.store import LogitStore

    card, logits, wrong, _ = planted
    index, store = read(read_card(card)), LogitStore(logits)
    labels = {i.image_id: rasterise(i, 255, background=True) for i in index.images if i.role == "train"}

    def predicted(image_id: str) -> np.ndarray:
        return probabilities(store, store.views, image_id)

    confidence = class_confidence(index, list(labels), predicted, labels.__getitem__)
    ranking = find_suspects(index, list(labels), predicted, labels.__getitem__, confidence, least=0.0)
    judged = [s for s in ranking.suspects if s.annotation_id is not None]
    planted_here = [s.annotation_id in wrong for s in judged]
    assert average_precision_score(planted_here, [s.suspicion for s in judged]) >= 0.8
    assert judged == sorted(judged, key=lambda s: -s.suspicion)
    assert set(ranking.image_scores) == set(labels)


def test_an_unannotated_object_is_found_and_a_list_applied(
    planted: tuple[Path, Path, set[int], int], tmp_path: Path
) -> None:
    card, logits, wrong, image_number = planted
    original = (card.parent / "train.json").read_bytes()
    asked = ["--data", str(card), "--cache-dir", str(tmp_path / "cache")]
    judged = RUNNER.invoke(app, [*asked, "--logits", str(logits), "--out", str(tmp_path / "suspects")])
    assert judged.exit_code == 0, judged.output
    with (tmp_path / "suspects" / "suspects.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    missing = json.loads((card.parents[1] / "missing.json").read_text())
    name = {i["id"]: i["file_name"] for i in json.loads(original)["images"]}[image_number]
    added = [r for r in rows if r["action"] == "add" and r["image_id"] == name]
    assert any(
        abs(float(r["x"]) - missing["bbox"][0]) < 12 and abs(float(r["y"]) - missing["bbox"][1]) < 12 for r in added
    )
    kept = [r for r in rows if r["annotation_id"] and int(r["annotation_id"]) in wrong][:3] + added[:1]
    chosen = tmp_path / "list.csv"
    with chosen.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(kept)
    applied = RUNNER.invoke(app, ["--data", str(card), "--apply", str(chosen), "--out", str(tmp_path / "fixed")])
    assert applied.exit_code == 0, applied.output
    assert (card.parent / "train.json").read_bytes() == original
    before, after = read(read_card(card)), read(read_card(tmp_path / "fixed" / "data.yaml"))
    removed = sum(r["action"] == "remove" for r in kept)
    count = [sum(len(i.annotations) for i in index.images) for index in (before, after)]
    assert count[1] == count[0] + len(added[:1]) - removed
    now = {(i.role, a.annotation_id): after.classes[a.class_index] for i in after.images for a in i.annotations}
    assert all(now["train", int(r["annotation_id"])] == r["suggested"] for r in kept if r["action"] == "relabel")
    again = RUNNER.invoke(app, ["--data", str(card), "--apply", str(chosen), "--out", str(card.parent)])
    assert again.exit_code == 2
    assert "must not hold the original files" in again.output
    page = (tmp_path / "suspects" / "suspects.html").read_text()
    assert "Save list.csv" in page
    assert 'src="http' not in page


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("burn,a,1,x,Paper", "action must be one of relabel, remove, add, got 'burn'"),
        ("remove,nowhere.jpg,1,x,Paper", "image 'nowhere.jpg' is not in the data"),
        ("remove,{image},999999,x,Paper", "has no annotation '999999'"),
        ("add,{image},,x,Paper", "rle must be a region of 96 x 96 px"),
        ("add,{image},,x,Ghost", "suggested must be a class of the data, got 'Ghost'"),
    ],
)
def test_rows_that_do_not_fit_are_named(
    planted: tuple[Path, Path, set[int], int], tmp_path: Path, row: str, message: str
) -> None:
    card = planted[0]
    image = read(read_card(card)).ids("train")[0]
    (tmp_path / "list.csv").write_text(
        "action,image_id,annotation_id,given,suggested\n" + row.format(image=image) + "\n"
    )
    result = RUNNER.invoke(
        app, ["--data", str(card), "--apply", str(tmp_path / "list.csv"), "--out", str(tmp_path / "o")]
    )
    assert result.exit_code == 2
    assert message in result.output.replace("\n", " ")
    assert not (tmp_path / "o").exists()


def test_names_like_formulas_are_text_in_the_list_and_come_back(tmp_path: Path) -> None:
    root = write_synthetic(tmp_path / "data", num_images=18, image_px=64, seed=0).parent
    content = json.loads((root / "train.json").read_text())
    first = next(i for i in content["images"] if i["id"] == content["annotations"][0]["image_id"])
    (root / first["file_name"]).rename(root / "=a.png")
    first["file_name"] = "=a.png"
    (root / "train.json").write_text(json.dumps(content))
    index = read(read_card(root / "data.yaml"))
    own = index.by_id()["=a.png"].annotations[0]
    suspect = Suspect(
        kind="remove", image_id="=a.png", annotation_id=own.annotation_id, given=index.classes[1], suggested="-",
        suspicion=0.75, area_px=3, box=(0, 0, 1, 1), counts="=1",
    )  # fmt: skip
    (tmp_path / "list.csv").write_text(csv_rows([suspect]))
    assert "remove,'=a.png," in (tmp_path / "list.csv").read_text()
    [row] = read_list(tmp_path / "list.csv", index)
    assert (row["image_id"], row["suggested"], row["rle"]) == ("=a.png", "-", "=1")


def test_the_holdout_stays_sealed_and_other_data_is_refused(
    planted: tuple[Path, Path, set[int], int], tmp_path: Path
) -> None:
    card = planted[0]
    index = read(read_card(card))
    some = {index.ids("train")[0]: np.zeros((96, 96), np.uint8)}
    sealed = write_logits(tmp_path / "holdout", index, some, split="holdout")
    other = write_logits(tmp_path / "other", SegIndex(**{**vars(index), "fingerprint": "0ld"}), some)
    for folder, message in (
        (sealed, "stays sealed"),
        (other, "another state of the data"),
        (tmp_path, "holds no logits"),
    ):
        asked = ["--data", str(card), "--logits", str(folder), "--out", str(tmp_path / "out")]
        result = RUNNER.invoke(app, asked)
        assert result.exit_code == 2
        assert message in result.output


def test_a_run_whose_logits_were_trained_on_is_refused(
    planted: tuple[Path, Path, set[int], int], tmp_path: Path
) -> None:
    card = planted[0]
    index = read(read_card(card))
    image_id = index.ids("train")[0]
    write_logits(tmp_path / "run" / "logits" / "0" / "val", index, {image_id: np.zeros((96, 96), np.uint8)})
    (tmp_path / "run" / "run.json").write_text(json.dumps({"card": str(card)}))
    (tmp_path / "run" / "data.json").write_text(json.dumps({"train": [image_id]}))
    result = RUNNER.invoke(app, ["--run", str(tmp_path / "run"), "--out", str(tmp_path / "out")])
    assert result.exit_code == 2
    assert "which its model trained on" in result.output
