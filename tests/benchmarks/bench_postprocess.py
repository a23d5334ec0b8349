"""Specks and holes of 20 label maps of 512 x 512, 11 classes, one thread.

    python tests/benchmarks/bench_postprocess.py [REPEATS]

The regions of all classes in one pass against a pass a class (OpenCV's and scipy's components), and what the stage
does with them: all options of an image at once, and the post-processing of a map with every class cleaned.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import sys
import time
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from scipy import ndimage

from analysis.postprocess.components import connected
from analysis.postprocess.label_map import SIZES, alone, postprocess
from analysis.postprocess.options import Postprocess

NUM_MAPS, SIDE_PX, NUM_CLASSES = 20, 512, 11


def _maps(sigma_px: float, specks: float) -> list[np.ndarray]:
    """Blobs of a width, and a share of pixels drawn anew."""
    rng = np.random.default_rng(0)
    maps = []
    for _ in range(NUM_MAPS):
        noise = rng.normal(size=(NUM_CLASSES, SIDE_PX, SIDE_PX)).astype(np.float32)
        label = ndimage.gaussian_filter(noise, (0, sigma_px, sigma_px)).argmax(0).astype(np.uint8)
        drawn = rng.random(label.shape) < specks
        label[drawn] = rng.integers(0, NUM_CLASSES, int(drawn.sum()))
        maps.append(label)
    return maps


def _row(kind: str, maps: list[np.ndarray], repeats: int) -> dict[str, Any]:
    sizes = Postprocess(min_component=(SIZES[-1],) * NUM_CLASSES, max_hole=(SIZES[-1],) * NUM_CLASSES)
    square = np.ones((3, 3))

    def by_class(count: Callable[[np.ndarray], Any]) -> Callable[[np.ndarray], Any]:
        return lambda label: [count((label == k).view(np.uint8)) for k in range(NUM_CLASSES)]

    calls: dict[str, Callable[[np.ndarray], Any]] = {
        "regions": lambda label: connected(label, True),
        "opencv": by_class(lambda mask: cv2.connectedComponentsWithStats(mask, connectivity=8)),
        "scipy": by_class(lambda mask: ndimage.label(mask, square)),
        "options": lambda label: alone(label, label, NUM_CLASSES),
        "postprocess": lambda label: postprocess(label, sizes),
    }
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            start_s = time.perf_counter()
            for label in maps:
                call(label)
            times[name].append(1000 * (time.perf_counter() - start_s) / len(maps))
    row: dict[str, Any] = {"maps": kind, **{f"{name}_ms": float(np.median(t)) for name, t in times.items()}}
    for rival in ("opencv", "scipy"):
        row[f"times_{rival}"] = float(np.median(np.array(times[rival]) / np.array(times["regions"])))
    return row


def run(repeats: int = 5) -> dict[str, Any]:
    cv2.setNumThreads(1)
    kinds = {"regions": _maps(20, 0), "regions with specks": _maps(20, 0.01), "noise": _maps(0.5, 0)}
    _row("compile", kinds["regions"][:1], 1)
    rows = [_row(kind, maps, repeats) for kind, maps in kinds.items()]
    columns = ("regions_ms", "opencv_ms", "scipy_ms", "times_opencv", "times_scipy", "options_ms", "postprocess_ms")
    print(f"{'an image':20}" + "".join(f"{name:>15}" for name in columns))
    for row in rows:
        print(f"{row['maps']:20}" + "".join(f"{row[name]:15.2f}" for name in columns))
    return {"rows": rows}


if __name__ == "__main__":
    run(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
