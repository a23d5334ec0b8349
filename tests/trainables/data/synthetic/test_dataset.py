from __future__ import annotations

import hashlib
import json
from collections import Counter
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml
from pycocotools.coco import COCO

from trainables.data.card import read_card
from trainables.data.raster import in_painting_order, segmentation_mask
from trainables.data.reader import read
from trainables.data.synthetic.dataset import MIN_IMAGES, PARTS, REAL_COUNTS, plan_images, write_synthetic
from trainables.data.synthetic.scenes import Item, Scene, photograph


@pytest.fixture(scope="module")
def card_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_synthetic(tmp_path_factory.mktemp("set") / "synthetic", num_images=60, image_px=96, seed=3)


def _part(card_path: Path, part: str) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((card_path.parent / f"{part}.json").read_text())
    return loaded


def _digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_same_parameters_give_the_same_bytes(tmp_path: Path) -> None:
    first, second = (write_synthetic(tmp_path / name, num_images=18, image_px=64, seed=1).parent for name in ("a", "b"))
    other = write_synthetic(tmp_path / "c", num_images=18, image_px=64, seed=2).parent
    assert _digests(first) == _digests(second)
    assert _digests(first).keys() != _digests(other).keys() or _digests(first) != _digests(other)


def test_areas_agree_with_pycocotools_masks(card_path: Path) -> None:
    coco = COCO(str(card_path.parent / "train.json"))
    large = [a for a in coco.anns.values() if a["area"] > 100]
    ratios = np.array([coco.annToMask(a).sum() / a["area"] for a in large])
    assert len(large) > 50
    assert np.all(np.abs(ratios - 1) < 0.15)  # a pixel more or less along the rim
    assert abs(float(np.median(ratios)) - 1) < 0.06


@pytest.mark.parametrize("name", ["Paper", "Plastic bag", "Clothing"])
def test_the_outline_encloses_the_painted_pixels(name: str) -> None:
    scene = Scene(np.zeros((288, 288, 3), np.float32), 0.3, 0.5, np.ones(3, np.float32), noise_std=0.0)  # on black
    image, placed = photograph(np.random.default_rng(4), scene, [Item(name, 0.6)], 96)
    painted = image.max(axis=2) > 12
    inside = segmentation_mask([placed[0].outline.reshape(-1).tolist()], 96, 96).astype(bool)
    rim = cv2.morphologyEx(inside.astype(np.uint8), cv2.MORPH_GRADIENT, np.ones((5, 5), np.uint8)).astype(bool)
    assert inside.sum() > 500
    assert (painted[~rim] == inside[~rim]).mean() > 0.99


def test_the_box_and_the_outline_lie_in_the_image(card_path: Path) -> None:
    for annotation in _part(card_path, "train")["annotations"]:
        outline = np.array(annotation["segmentation"][0]).reshape(-1, 2)
        x, y, width, height = annotation["bbox"]
        assert outline.min() >= 0
        assert outline.max() <= 96
        np.testing.assert_allclose(outline.min(axis=0), (x, y))
        np.testing.assert_allclose(np.ptp(outline, axis=0), (width, height), atol=0.011)


def test_annotations_look_like_the_real_set_s(card_path: Path) -> None:
    for part in PARTS:
        coco = _part(card_path, part)
        assert [image["id"] for image in coco["images"]] == list(range(len(coco["images"])))
        assert [a["id"] for a in coco["annotations"]] == list(range(len(coco["annotations"])))
        assert [(c["id"], c["name"]) for c in coco["categories"]] == list(enumerate(REAL_COUNTS, start=1))
        assert all(isinstance(a["area"], float) for a in coco["annotations"])
        for image in coco["images"]:
            pixels = cv2.imread(str(card_path.parent / image["file_name"]))
            assert pixels is not None
            assert pixels.shape == (96, 96, 3)


@pytest.mark.parametrize("part", PARTS)
def test_every_class_and_an_empty_image_are_in_each_part(card_path: Path, part: str) -> None:
    coco = _part(card_path, part)
    images = {(a["category_id"], a["image_id"]) for a in coco["annotations"]}
    per_class = Counter(category for category, _ in images)
    assert all(per_class[number] >= MIN_IMAGES for number in range(1, 11))
    assert len({image for _, image in images}) < len(coco["images"])


def test_large_sets_are_as_unbalanced_as_the_real_one() -> None:
    counts = Counter(item.name for plan in plan_images(4000, 128, seed=0) for item in plan.items)
    total = sum(counts.values())
    common = [name for name, real in REAL_COUNTS.items() if real > 2000]
    for name in common:
        assert counts[name] / total == pytest.approx(REAL_COUNTS[name] / sum(REAL_COUNTS.values()), rel=0.1)
    assert min(counts.values()) < 0.05 * counts["Paper"]


def test_objects_come_in_three_sizes(card_path: Path) -> None:
    areas = np.array([a["area"] for part in PARTS for a in _part(card_path, part)["annotations"]]) * (512 / 96) ** 2
    small, medium = (areas < 50**2).mean(), ((areas >= 50**2) & (areas < 250**2)).mean()
    assert small > 0.1
    assert medium > 0.3
    assert 0 < 1 - small - medium < 0.1


def test_no_scene_is_in_two_parts(card_path: Path) -> None:
    groups = [{image["file_name"][:8] for image in _part(card_path, part)["images"]} for part in PARTS]
    assert min(map(len, groups)) >= 2
    assert len(set.union(*groups)) == sum(map(len, groups))


def test_the_project_s_reader_takes_it_without_a_warning(card_path: Path) -> None:
    index = read(read_card(card_path))
    assert index.classes == ("Background", *REAL_COUNTS)
    assert len(index.images) == 60
    assert index.grouped
    assert not index.warnings
    assert index.by_id()[index.images[0].image_id].group.startswith("batch_")


def test_a_complete_set_is_used_again_and_another_one_is_replaced(tmp_path: Path) -> None:
    root = tmp_path / "set"
    card = write_synthetic(root, num_images=18, image_px=64, seed=0)
    before = card.stat().st_mtime_ns
    assert write_synthetic(root, num_images=18, image_px=64, seed=0).stat().st_mtime_ns == before
    next(root.glob("batch_*/*.jpg")).unlink()  # no longer complete
    assert write_synthetic(root, num_images=18, image_px=64, seed=0).stat().st_mtime_ns != before
    write_synthetic(root, num_images=20, image_px=64, seed=0)
    assert len(list(root.glob("batch_*/*.jpg"))) == 20
    assert [path.name for path in tmp_path.iterdir()] == ["set"]
    assert yaml.safe_load(card.read_text())["group"] == r"^(batch_\d+)"


def test_a_folder_that_holds_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(ValueError, match="holds something else; name another folder"):
        write_synthetic(tmp_path, num_images=18, image_px=64, seed=0)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


@pytest.mark.parametrize(("num_images", "image_px", "rule"), [(17, 64, "at least 18"), (18, 63, "at least 64")])
def test_too_small_a_set_is_refused(tmp_path: Path, num_images: int, image_px: int, rule: str) -> None:
    with pytest.raises(ValueError, match=rule):
        write_synthetic(tmp_path / "set", num_images=num_images, image_px=image_px, seed=0)
    assert not list(tmp_path.iterdir())


def test_what_was_drawn_on_top_is_labelled_on_top(card_path: Path) -> None:
    for image in read(read_card(card_path)).images:
        assert in_painting_order(image.annotations) == list(image.annotations)
