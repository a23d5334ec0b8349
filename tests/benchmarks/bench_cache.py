"""Samples a second: from the cache, against decode-and-rasterise each time, at 512 x 512 before augmentation.

    python tests/benchmarks/bench_cache.py

A sample is an image (512,512,3) and its label (512,512), copied out. The set is written here: photographs of
coloured noise as JPEG, with the 8 polygons of some 200 points that an image of the trash set has. Raise NUM_IMAGES
for more than the page cache holds.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from trainables.data.cache import Cache
from trainables.data.card import read_card
from trainables.data.image_file import read_image
from trainables.data.index import SegIndex
from trainables.data.raster import rasterise
from trainables.data.reader import read

NUM_IMAGES = 64
NUM_ROUNDS = 7
NUM_POLYGONS, NUM_POINTS = 8, 200
SIDE_PX = 512


def write_set(root: Path, rng: np.random.Generator) -> Path:
    """JPEG + COCO JSON + card; returns the card's path."""
    images, annotations = [], []
    angle = np.linspace(0, 2 * np.pi, NUM_POINTS, endpoint=False)
    for n in range(NUM_IMAGES):
        coarse = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
        picture = cv2.resize(coarse, (SIDE_PX, SIDE_PX), interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(root / f"{n}.jpg"), picture + rng.integers(0, 9, picture.shape, dtype=np.uint8))
        images.append({"id": n, "file_name": f"{n}.jpg", "height": SIDE_PX, "width": SIDE_PX})
        for _ in range(NUM_POLYGONS):
            radius = rng.uniform(20, 120) * (1 + 0.1 * np.sin(5 * angle))
            centre = rng.uniform(100, SIDE_PX - 100, 2)
            points = np.stack([centre[0] + radius * np.cos(angle), centre[1] + radius * np.sin(angle)], axis=1)
            entry = {"segmentation": [points.ravel().round(1).tolist()], "area": float(np.pi * radius.mean() ** 2)}
            ids = {"id": len(annotations), "image_id": n, "category_id": int(rng.integers(1, 11))}
            annotations.append(entry | ids)
    categories = [{"id": k, "name": f"class {k}"} for k in range(1, 11)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (root / "train.json").write_text(json.dumps(content), encoding="utf-8")
    (root / "data.yaml").write_text("train: train.json\n", encoding="utf-8")
    return root / "data.yaml"


def measure(index: SegIndex, root: Path) -> dict[str, Any]:
    """Both ways in turn over the same images; medians over the rounds."""
    start = time.perf_counter()
    cache = Cache.open(index, root)
    build_s = time.perf_counter() - start
    start = time.perf_counter()
    Cache.open(index, root)
    open_s = time.perf_counter() - start
    records = index.images

    def from_cache() -> None:
        for record in records:
            np.array(cache.image(record.image_id))
            np.array(cache.label(record.image_id))

    def each_time() -> None:
        for record in records:
            read_image(record.path)
            rasterise(record, index.ignore_index)

    rounds = [(seconds(from_cache), seconds(each_time)) for _ in range(NUM_ROUNDS)]
    return {
        "cache_samples_per_s": statistics.median(len(records) / fast for fast, _ in rounds),
        "decode_samples_per_s": statistics.median(len(records) / slow for _, slow in rounds),
        "ratio": statistics.median(slow / fast for fast, slow in rounds),
        "build_s": build_s,
        "open_ms": 1000 * open_s,
        "num_images": len(records),
    }


def seconds(job: Callable[[], None]) -> float:
    start = time.perf_counter()
    job()
    return time.perf_counter() - start


def run() -> dict[str, Any]:
    cv2.setNumThreads(0)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        row = measure(read(read_card(write_set(root, np.random.default_rng(0)))), root / "cache")
    print(f"{'way':<28}{'samples/s':>12}")
    print(f"{'cache (memory-mapped)':<28}{row['cache_samples_per_s']:>12.0f}")
    print(f"{'decode and rasterise':<28}{row['decode_samples_per_s']:>12.0f}")
    print(f"ratio {row['ratio']:.1f} (aim: 20); built in {row['build_s']:.2f} s, opened in {row['open_ms']:.1f} ms")
    return row


if __name__ == "__main__":
    run()
