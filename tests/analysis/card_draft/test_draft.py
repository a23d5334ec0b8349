"""What is drafted is what a run reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner

from analysis.card_draft import draft_card
from analysis.card_draft.find_parts import role_of
from search.cli import app
from trainables.data.synthetic.dataset import write_synthetic

RNG = np.random.default_rng(0)


def photo(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(RNG.integers(0, 256, (16, 24, 3), dtype=np.uint8)).save(path)


def mask(path: Path, values: list[int]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.resize(np.array(values, np.uint8), (16, 24))).save(path)


def drafted(root: Path) -> dict[str, Any]:
    card: dict[str, Any] = yaml.safe_load(draft_card(root).text)
    return card


@pytest.mark.parametrize(
    ("path", "role"),
    [
        ("instances_train2017.json", "train"),
        ("annotations/instances_val2017.json", "val"),
        ("train/valid/a.json", "val"),
        ("img_dir/test", "holdout"),
        ("labels/all.json", "train"),
        ("contest.json", "train"),
    ],
)
def test_a_path_says_what_a_part_is_for(path: str, role: str) -> None:
    assert role_of(Path(path)) == role


def test_folders_per_part_of_images_and_masks(tmp_path: Path) -> None:
    for part, count in (("train", 4), ("val", 2)):
        for n in range(count):
            photo(tmp_path / "img_dir" / part / f"{n}.jpg")
            mask(tmp_path / "ann_dir" / part / f"{n}.png", [0, 1, 2, 255])
    card = drafted(tmp_path)
    assert card["train"] == {"images": "img_dir/train", "masks": "ann_dir/train"}
    assert card["val"] == {"images": "img_dir/val", "masks": "ann_dir/val"}
    assert card["classes"] == {0: "background", 1: "class_1", 2: "class_2"}  # 255 beside 0, 1, 2 is the usual void
    done = CliRunner().invoke(app, ["init", str(tmp_path)])
    assert done.exit_code == 0, done.output
    assert "read as a run reads it: 3 classes, 6 images" in done.stdout
    assert f"--space convnext.yaml --data {tmp_path}/data.yaml" in done.stdout.splitlines()[-1]
    again = CliRunner().invoke(app, ["init", str(tmp_path)])
    assert (again.exit_code, "which exists" in again.stderr) == (2, True)


def test_255_is_a_class_where_values_are_no_count(tmp_path: Path) -> None:
    for n in range(3):
        photo(tmp_path / "images" / f"{n}.png")
        mask(tmp_path / "masks" / f"{n}.png", [0, 128, 255])
    assert drafted(tmp_path)["classes"] == {0: "background", 128: "class_128", 255: "class_255"}


def test_coco_files_with_a_folder_of_images_per_file(tmp_path: Path) -> None:
    source = write_synthetic(tmp_path / "source", num_images=18, image_px=64, seed=0)
    found = json.loads((source.parent / "train.json").read_text())
    root = tmp_path / "set"
    for part in ("train", "val"):
        few = found["images"][:3] if part == "train" else found["images"][3:6]
        images = [{**image, "file_name": Path(image["file_name"]).name} for image in few]
        for image, old in zip(images, few, strict=True):
            target = root / f"{part}2017" / image["file_name"]
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes((source.parent / old["file_name"]).read_bytes())
        ids = {image["id"] for image in images}
        annotations = [a for a in found["annotations"] if a["image_id"] in ids]
        file = root / "annotations" / f"instances_{part}2017.json"
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps({**found, "images": images, "annotations": annotations}))
    (root / "annotations" / "captions.json").write_text("[1, 2]")
    card = drafted(root)
    assert card["train"] == {"coco": "annotations/instances_train2017.json", "images": "train2017"}
    assert card["val"] == {"coco": "annotations/instances_val2017.json", "images": "val2017"}
    assert "classes" not in card
    out = tmp_path / "elsewhere.yaml"
    done = CliRunner().invoke(app, ["init", str(root), "--out", str(out)])
    assert done.exit_code == 0, done.output
    assert yaml.safe_load(out.read_text())["root"] == str(root)


def test_masks_of_images_that_coco_files_list_are_left_out(tmp_path: Path) -> None:
    card = write_synthetic(tmp_path / "set", num_images=18, image_px=64, seed=0)
    card.unlink()
    root = card.parent
    batch = sorted(root.glob("batch_*"))[0]
    for image in sorted(batch.iterdir()):
        mask(root / "masks" / f"{image.stem}.png", [0, 1])
    text = draft_card(root).text
    assert "masks" not in yaml.safe_load(text)["train"]
    assert f"# also here, of images that the COCO files list: {{images: {batch.name}, masks: masks}}" in text


def test_one_labelled_part_of_any_name_is_for_training(tmp_path: Path) -> None:
    for n in range(2):
        photo(tmp_path / "test" / "images" / f"{n}.jpg")
        mask(tmp_path / "test" / "masks" / f"{n}.png", [0, 1])
    assert drafted(tmp_path)["train"] == {"images": "test/images", "masks": "test/masks"}


def test_images_alone_are_refused_with_what_is_missing(tmp_path: Path) -> None:
    photo(tmp_path / "a.jpg")
    with pytest.raises(ValueError, match=r"with 1 images in 1 folders; put the labels beside them"):
        draft_card(tmp_path)


def test_another_tools_export_is_told_its_converter(tmp_path: Path) -> None:
    photo(tmp_path / "a.jpg")
    (tmp_path / "a.json").write_text('{"version": "5", "shapes": [], "imagePath": "a.jpg"}')
    with pytest.raises(ValueError, match="segsearch convert --from labelme"):
        draft_card(tmp_path)


def test_what_a_run_would_refuse_is_told_after_the_card_is_written(tmp_path: Path) -> None:
    for n in range(2):
        photo(tmp_path / "images" / f"{n}.jpg")
        mask(tmp_path / "masks" / f"{n}.png", [0, 1])
    (tmp_path / "images" / "2.jpg").write_bytes(b"no image")
    mask(tmp_path / "masks" / "2.png", [0, 1])
    done = CliRunner().invoke(app, ["init", str(tmp_path)])
    assert done.exit_code == 2
    assert (tmp_path / "data.yaml").is_file()
    assert "a run would refuse it:\n1 problem in the data:" in done.stderr
