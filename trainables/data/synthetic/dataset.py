"""Draws the built-in data set: photographs of trash in the eleven classes of a public competition.

The folder reads like any other data set (the same seed, num_images and image_px give the same bytes):
    data.yaml  train.json val.json holdout.json  batch_01_vt/0001.jpg ...  synthetic.json
with JPEGs, COCO polygons, scenes as groups and no group in two parts. Classes are as rare as in the real set, but each
one is in at least `MIN_SHARE` of a part's images, between `MIN_IMAGES` and `ENOUGH_IMAGES` (or all but one, where a
part has fewer): so large sets are as unbalanced as the real one, and small ones can still be learnt and scored.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections import Counter
from dataclasses import dataclass, replace
from itertools import chain, groupby
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from trainables.data.synthetic.objects import KINDS
from trainables.data.synthetic.scenes import OUTLINE_DIGITS, Item, Placed, make_scene, photograph

FORMAT = "segsearch-synthetic/3"  # to be raised with any change of what is drawn
PARTS = {"train": 0.6, "val": 0.2, "holdout": 0.2}  # shares of the scenes
IMAGES_PER_SCENE = 4
MIN_SHARE, MIN_IMAGES, ENOUGH_IMAGES = 0.25, 4, 36  # of a part's images
SIDES = {"small": (0.08, 0.12), "medium": (0.22, 0.5), "large": (0.6, 0.9), "cell": (0.25, 0.4)}  # of the image's
SEEN_SIDE = 0.12  # an object this long, as a share of the image's side, survives at 64 px
JPEG_QUALITY = 88
EMPTY_SHARE = 0.05  # images without annotation
REAL_COUNTS = {  # annotations per class in the competition's 3272 images
    "General trash": 2782, "Paper": 9311, "Paper pack": 659, "Metal": 562, "Glass": 610, "Plastic": 3090,
    "Styrofoam": 1343, "Plastic bag": 7643, "Battery": 63, "Clothing": 177,
}  # fmt: skip
CARD = """\
# Drawn by segsearch: {num_images} images of {image_px} x {image_px} px, seed {seed}. Free for any use.
name: synthetic
train: train.json
val: val.json
holdout: holdout.json
ignore: []
background: true             # class 0 'Background' = pixels under no annotation
group: '^(batch_\\d+)'        # the scene: one surface, one light, one camera
licence: CC0-1.0
"""


@dataclass(frozen=True)
class Plan:
    """One image to draw: which scene, which part, which objects."""

    file_name: str
    scene: int
    part: str
    items: tuple[Item, ...]


def write_synthetic(root: Path, *, num_images: int, image_px: int, seed: int) -> Path:
    """Draw the data set into `root` (unless it is there already) and return the path of its data.yaml.

    The set is drawn beside `root` and renamed, so `root` is whole or absent; a set with other parameters is replaced.

    Raises:
        ValueError: fewer than 18 images, images smaller than 64 px, or a `root` that holds something else.
    """
    if num_images < 18:
        raise ValueError(
            f"num_images must be at least 18 (three parts, two scenes each), got {num_images}; use 18 or more"
        )
    if image_px < 64:
        raise ValueError(
            f"image_px must be at least 64, or no object can be told apart, got {image_px}; use 64 or more"
        )
    asked = {"format": FORMAT, "num_images": num_images, "image_px": image_px, "seed": seed}
    if _is_complete(root, asked):
        return root / "data.yaml"
    if root.exists() and not (root / "synthetic.json").is_file() and (not root.is_dir() or any(root.iterdir())):
        raise ValueError(
            f"{root} must be absent, empty or a synthetic set, and holds something else; name another folder"
        )
    root.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=f".{root.name}-", dir=root.parent))
    try:
        _draw(fresh, asked, num_images, image_px, seed)
        _swap(fresh, root, asked)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return root / "data.yaml"


def _is_complete(root: Path, asked: dict[str, Any]) -> bool:
    """Whether `root` holds the set that is asked for, with every image still there."""
    try:
        found = json.loads((root / "synthetic.json").read_text())
    except (FileNotFoundError, NotADirectoryError, json.JSONDecodeError):
        return False
    return bool(found == asked) and sum(1 for _ in root.glob("batch_*/*.jpg")) == asked["num_images"]


def _swap(fresh: Path, root: Path, asked: dict[str, Any]) -> None:
    """Rename `fresh` to `root`. Where another process was quicker with the same set, its set stays."""
    fresh.chmod(0o755)  # mkdtemp's folders are private
    if root.exists() and any(root.iterdir()):
        if _is_complete(root, asked):
            return
        old = Path(tempfile.mkdtemp(prefix=f".{root.name}-old-", dir=root.parent))
        root.replace(old)
        shutil.rmtree(old)
    try:
        fresh.replace(root)
    except OSError:
        if not _is_complete(root, asked):
            raise


def _draw(folder: Path, asked: dict[str, Any], num_images: int, image_px: int, seed: int) -> None:
    """Write images, annotations, the card, and last the marker that says which set this is."""
    cocos = {part: _empty_coco() for part in PARTS}
    for scene_number, plans in groupby(plan_images(num_images, image_px, seed), key=lambda plan: plan.scene):
        scene = make_scene(np.random.default_rng([seed, num_images, image_px, scene_number]), image_px)
        for position, plan in enumerate(plans):
            rng = np.random.default_rng([seed, num_images, image_px, scene_number, position])
            image, placed = photograph(rng, scene, plan.items, image_px)
            path = folder / plan.file_name
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(_jpeg(image))
            _append(cocos[plan.part], plan.file_name, placed, image_px)
    for part, coco in cocos.items():
        (folder / f"{part}.json").write_text(json.dumps(coco, separators=(",", ":")))
    (folder / "data.yaml").write_text(CARD.format(**asked))
    (folder / "synthetic.json").write_text(json.dumps(asked, indent=1))


def _jpeg(image: np.ndarray[Any, Any]) -> bytes:
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    return cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1].tobytes()


def plan_images(num_images: int, image_px: int, seed: int) -> list[Plan]:
    """Deal images to scenes, scenes to parts and objects to images, in the order of the scenes."""
    rng = np.random.default_rng([seed, num_images, image_px])
    num_scenes = max(6, round(num_images / IMAGES_PER_SCENE))
    sizes = 1 + rng.multinomial(num_images - num_scenes, np.full(num_scenes, 1 / num_scenes))
    plans = [
        Plan(f"batch_{scene + 1:02d}_vt/{number + 1:04d}.jpg", scene, part, _draw_items(rng))
        for scene, part in enumerate(_deal_scenes(rng, sizes))
        for number in range(int(sizes[scene]))
    ]
    full = [_fill_classes(rng, [plan for plan in plans if plan.part == part]) for part in PARTS]
    return sorted(chain.from_iterable(full), key=lambda plan: (plan.scene, plan.file_name))


def _deal_scenes(rng: np.random.Generator, sizes: np.ndarray[Any, Any]) -> list[str]:
    """The part of each scene, in random order: the one that lacks most images. Each part gets two scenes at least."""
    parts, held, scenes = [""] * len(sizes), Counter[str](), Counter[str]()
    for rank, scene in enumerate(rng.permutation(len(sizes))):
        poor = [part for part in PARTS if scenes[part] < 2]
        forced = sum(2 - scenes[part] for part in poor) >= len(sizes) - rank
        part = max(poor if forced else PARTS, key=lambda name: PARTS[name] * sizes.sum() - held[name])
        parts[scene] = part
        held[part] += int(sizes[scene])
        scenes[part] += 1
    return parts


def _draw_items(rng: np.random.Generator) -> tuple[Item, ...]:
    """The objects of one image; none in `EMPTY_SHARE` of them."""
    if rng.random() < EMPTY_SHARE:
        return ()
    counts = np.array(list(REAL_COUNTS.values()), np.float64)
    names = rng.choice(list(REAL_COUNTS), 1 + min(int(rng.gamma(1.6, 2.0)), 13), p=counts / counts.sum())
    return tuple(Item(str(name), _side(rng, str(name))) for name in names)


def _side(rng: np.random.Generator, name: str) -> float:
    """The longer side as a share of the image's: a fifth small, few large, as in the real set. Cells stay small."""
    size = "cell" if name == "Battery" else rng.choice(["small", "medium", "large"], p=[0.2, 0.73, 0.07])
    return float(rng.uniform(*SIDES[size]))


def _fill_classes(rng: np.random.Generator, plans: list[Plan]) -> list[Plan]:
    """Hand rare classes to random images with objects until each is in enough images of this part."""
    wanted = min(int(np.clip(round(MIN_SHARE * len(plans)), MIN_IMAGES, ENOUGH_IMAGES)), max(1, len(plans) - 1))
    if all(plan.items for plan in plans):  # a part of a small set may have drawn no empty image
        plans[0] = replace(plans[0], items=())
    for name in REAL_COUNTS:
        seen = [any(item.name == name and item.side > SEEN_SIDE for item in plan.items) for plan in plans]
        lacking = [at for at in range(len(plans)) if not seen[at]]
        fitting = [at for at in lacking if plans[at].items] or lacking[1:]
        for at in rng.permutation(fitting)[: max(0, wanted - sum(seen))]:
            side = float(rng.uniform(*SIDES["cell" if name == "Battery" else "medium"]))
            plans[at] = replace(plans[at], items=(*plans[at].items, Item(name, side)))
    return plans


def _empty_coco() -> dict[str, Any]:
    licence = {"id": 0, "name": "CC0 1.0", "url": "https://creativecommons.org/publicdomain/zero/1.0/"}
    categories = [{"id": number, "name": name, "supercategory": name} for number, name in enumerate(KINDS, start=1)]
    return {"licenses": [licence], "images": [], "categories": categories, "annotations": []}


def _append(coco: dict[str, Any], file_name: str, placed: list[Placed], image_px: int) -> None:
    """Add one image and its annotations (in the order they were drawn: larger masks first)."""
    image_id = len(coco["images"])
    coco["images"].append({"id": image_id, "file_name": file_name, "width": image_px, "height": image_px, "license": 0})
    for one in placed:
        outline = one.outline.round(OUTLINE_DIGITS)
        low, high = outline.min(axis=0), outline.max(axis=0)
        coco["annotations"].append(
            {
                "id": len(coco["annotations"]),
                "image_id": image_id,
                "category_id": 1 + list(KINDS).index(one.name),
                "segmentation": [outline.reshape(-1).tolist()],
                "area": round(one.area, 2),
                "bbox": [*low.tolist(), *(high - low).round(2).tolist()],
                "iscrowd": 0,
            }
        )
