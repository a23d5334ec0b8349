"""EDA's time against the number of annotations, on photographs of 512 x 512 with 8 polygons each.

    python tests/benchmarks/bench_eda.py

The survey (decode, paint, count, hash, measure) is most of it; reading and checking the COCO file and writing the page
are timed apart. A hundred different photographs are listed again and again through links, so that 100,000 annotations
need no 12,500 files' room. Raise NUM_ANNOTATIONS with a hundred thousand for the whole curve: minutes.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from analysis.dataset.statistics import collect_statistics
from trainables.data.card import read_card
from trainables.data.reader import read

NUM_ANNOTATIONS = tuple(int(n) for n in os.environ.get("BENCH_EDA", "1000,10000").split(","))
A_PICTURE, NUM_FILES, SIDE_PX = 8, 100, 512


def write_set(root: Path, num_annotations: int, rng: np.random.Generator) -> Path:
    for n in range(NUM_FILES):
        coarse = rng.integers(0, 256, (24, 24, 3), dtype=np.uint8)
        cv2.imwrite(str(root / f"f{n}.jpg"), cv2.resize(coarse, (SIDE_PX, SIDE_PX), interpolation=cv2.INTER_CUBIC))
    angle = np.linspace(0, 2 * np.pi, 120, endpoint=False)
    images, annotations = [], []
    for n in range(num_annotations // A_PICTURE):
        name = f"i{n}.jpg"
        os.link(root / f"f{n % NUM_FILES}.jpg", root / name)
        images.append({"id": n, "file_name": name, "height": SIDE_PX, "width": SIDE_PX})
        for _ in range(A_PICTURE):
            radius = rng.uniform(10, 120) * (1 + 0.1 * np.sin(5 * angle))
            x, y = rng.uniform(100, 400, 2)
            points = (
                np.stack([x + radius * np.cos(angle), y + radius * np.sin(angle)], axis=1).ravel().round(1).tolist()
            )
            entry = {"id": len(annotations), "image_id": n, "category_id": int(rng.integers(1, 11))}
            annotations.append(entry | {"segmentation": [points], "area": float(np.pi * radius.mean() ** 2)})
    categories = [{"id": k, "name": f"class {k}"} for k in range(1, 11)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (root / "train.json").write_text(json.dumps(content))
    (root / "data.yaml").write_text("train: train.json\n")
    return root / "data.yaml"


def run() -> dict[str, Any]:
    rows: dict[str, Any] = {}
    print(f"{'annotations':>12} {'read s':>8} {'survey s':>9} {'ms an annotation':>17}")
    for num in NUM_ANNOTATIONS:
        with tempfile.TemporaryDirectory() as folder:
            card = write_set(Path(folder), num, np.random.default_rng(0))
            start = time.perf_counter()
            index = read(read_card(card))
            read_s = time.perf_counter() - start
            start = time.perf_counter()
            collect_statistics(index)
            survey_s = time.perf_counter() - start
        rows[str(num)] = {"read_s": read_s, "survey_s": survey_s, "ms_an_annotation": 1000 * survey_s / num}
        print(f"{num:>12,} {read_s:>8.1f} {survey_s:>9.1f} {1000 * survey_s / num:>17.2f}")
    return rows


if __name__ == "__main__":
    run()
