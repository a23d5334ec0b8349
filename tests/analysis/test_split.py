"""analysis/split.py: a file that runs take, a report that shows what is wrong, and refusals in words."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from analysis.dataset.split_quality import bursts, findings
from analysis.split import app
from trainables.data.card import read_card
from trainables.data.reader import read
from trainables.data.splits.split_file import read_split
from trainables.data.synthetic.dataset import write_synthetic

RUNNER = CliRunner()


@pytest.fixture(scope="module")
def card(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The synthetic set as one file without groups, with a copy of every fourth training image planted."""
    root = tmp_path_factory.mktemp("set") / "data"
    write_synthetic(root, num_images=72, image_px=64, seed=0)
    content = json.loads((root / "train.json").read_text())
    for n, image in enumerate(list(content["images"][::4])):
        copy = {**image, "id": 10_000 + n, "file_name": f"copies/{n:03d}.jpg"}
        (root / "copies").mkdir(exist_ok=True)
        pixels = cv2.imread(str(root / image["file_name"]))
        cv2.imwrite(str(root / copy["file_name"]), np.clip(pixels * 0.93 + 6, 0, 255).astype(np.uint8))
        content["images"].append(copy)
        for a in [a for a in content["annotations"] if a["image_id"] == image["id"]]:
            content["annotations"].append({**a, "id": 10_000 + len(content["annotations"]), "image_id": copy["id"]})
    (root / "train.json").write_text(json.dumps(content))
    (root / "data.yaml").write_text("name: planted\ntrain: train.json\nunlabelled: holdout.json\n")
    return root / "data.yaml"


def run(card: Path, out: Path, *more: str) -> str:
    result = RUNNER.invoke(
        app, ["--data", str(card), "--out", str(out), "--cache-dir", str(card.parents[1] / "cache"), *more]
    )
    assert result.exit_code == (2 if "--strict" in more else 0), result.output
    return result.output


def test_planted_copies_end_on_one_side_of_every_split(card: Path, tmp_path: Path) -> None:
    run(card, tmp_path / "split.json", "--folds", "4", "--backbone", "test_resnet")
    index = read(read_card(card))
    originals = [image.image_id for image in index.images][: -len(list((card.parent / "copies").iterdir()))][::4]
    for fold in (None, 0, 1, 2, 3):
        split = read_split(tmp_path / "split.json", index, fold)
        part_of = {i: p for p, ids in enumerate((split.train_ids, split.val_ids, split.holdout_ids)) for i in ids}
        copies = [(f"copies/{n:03d}.jpg", name) for n, name in enumerate(originals) if f"copies/{n:03d}.jpg" in part_of]
        assert len(copies) >= 5
        assert all(part_of[copy] == part_of[original] for copy, original in copies if original in part_of)


def test_the_report_is_one_offline_page_with_its_facts(card: Path, tmp_path: Path) -> None:
    output = run(card, tmp_path / "split.json", "--folds", "2", "--backbone", "test_resnet")
    facts = json.loads((tmp_path / "split.report.json").read_text())
    assert [part["part"] for part in facts["parts"]] == ["train", "val", "holdout"]
    assert facts["shift"]["target"] == "unlabelled"
    assert {"val", "train", "fold 0", "fold 1"} == {*facts["shift"]["candidates"], *facts["shift"]["skipped"]}
    page = (tmp_path / "split.html").read_text()
    assert "default-src 'none'" in page
    assert 'src="http' not in page
    assert "of those tried, " in output


def test_strict_refuses_what_a_part_lacks_and_writes_nothing(card: Path, tmp_path: Path) -> None:
    output = run(card, tmp_path / "split.json", "--strict", "--folds", "20")
    assert "--strict refuses this split" in output
    assert "is absent from" in output
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--folds", "1"], "--folds must be 0 (none) or at least 2"),
        (["--folds", "999"], "folds must be 2 to"),
        (["--val-share", "1.5"], "val_share must lie between 0 and 1"),
        (["--backbone", "resnot18"], "must be a timm model"),
    ],
)
def test_mistakes_are_one_message_and_exit_2(card: Path, tmp_path: Path, more: list[str], message: str) -> None:
    asked = ["--data", str(card), "--out", str(tmp_path / "s.json"), "--cache-dir", str(card.parents[1] / "cache")]
    result = RUNNER.invoke(app, [*asked, *more])
    assert result.exit_code == 2
    assert message in result.output
    assert "Traceback" not in result.output


def test_bursts_are_named_with_their_step_and_gap() -> None:
    parts = {
        "train": [f"a/cam_{n:04d}.jpg" for n in range(0, 300, 30)],
        "val": [f"b/cam_{n:04d}.jpg" for n in range(310, 350, 2)],
    }
    found = bursts({**parts, "holdout": [f"c/other{n}.png" for n in range(9)]})
    assert [(b.part, b.name, b.num_images, b.step, b.share, b.gap) for b in found] == [
        ("train", "cam_", 10, 30, 1.0, None),
        ("val", "cam_", 20, 2, 1.0, 40),
        ("holdout", "other", 9, 1, 1.0, None),
    ]


def test_numbered_images_that_a_split_mixes_are_no_burst() -> None:
    val = [f"{n}.png" for n in range(0, 200, 5)]
    parts = {"train": [f"{n}.png" for n in range(200) if n % 5], "val": val}
    mixed, alone = bursts(parts)[-1], bursts({"train": [f"{n}.png" for n in range(201, 300)], "val": val})[-1]
    assert (mixed.part, mixed.share, mixed.gap) == ("val", 40 / 196, 0)
    assert (alone.part, alone.share, alone.gap) == ("val", 1.0, 6)
    said = [findings([], [run], [], grouped=False) for run in (mixed, alone)]
    assert ["one burst" in " ".join(each) for each in said] == [False, True]


@pytest.mark.slow
def test_camvids_official_val_is_shown_to_be_a_burst_and_the_carved_one_is_none(
    shared_data: Path, tmp_path: Path
) -> None:
    card = shared_data / "camvid" / "data.yaml"
    asked = ["--data", str(card), "--cache-dir", str(tmp_path / "cache"), "--backbone", "test_resnet"]
    official = RUNNER.invoke(app, [*asked, "--out", str(tmp_path / "official.json")])
    assert "101 images of val are one burst" in official.output
    assert "val shows 1 scene in 101 images" in official.output
    carved = RUNNER.invoke(app, [*asked, "--out", str(tmp_path / "carved.json"), "--carve", "val"])
    assert carved.exit_code == 0
    assert "of val are one burst" not in carved.output
    val = json.loads((tmp_path / "carved.report.json").read_text())["parts"][1]
    assert val["groups_in_train"] == 0
    assert val["near_duplicates_in_train"] == 0
    assert val["num_scenes"] > 50
