"""The confusion matrix on 50 maps of 512 x 512, 11 classes, one thread.

    python tests/benchmarks/bench_confusion.py [REPEATS]

Rivals: numpy's bincount on uint8 codes (no ignored label, no check: the least work there is) and torchmetrics. Three
kinds of maps: regions (what models and people draw), blocks of 4 px, and noise (the worst case of any counter).
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torchmetrics.functional.classification import multiclass_confusion_matrix

from trainables.metrics import confusion

NUM_MAPS, SIDE_PX, NUM_CLASSES = 50, 512, 11


def _maps(block_px: int, seed: int) -> np.ndarray:  # (N,H,W) uint8
    cells = -(-SIDE_PX // block_px)
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, NUM_CLASSES, (NUM_MAPS, cells, cells), dtype=np.uint8)
    full = coarse.repeat(block_px, axis=1).repeat(block_px, axis=2)
    return np.ascontiguousarray(full[:, :SIDE_PX, :SIDE_PX])


def _milliseconds(call: Callable[[], Any]) -> float:
    start_s = time.perf_counter()
    call()
    return 1000 * (time.perf_counter() - start_s)


def _row(kind: str, true: np.ndarray, pred: np.ndarray, repeats: int) -> dict[str, Any]:
    true_t, pred_t = torch.from_numpy(true).long(), torch.from_numpy(pred).long()
    k = NUM_CLASSES
    rivals: dict[str, Callable[[], Any]] = {
        "numpy": lambda: np.bincount((true * np.uint8(k) + pred).ravel(), minlength=k * k).reshape(k, k),
        "torchmetrics": lambda: multiclass_confusion_matrix(pred_t, true_t, k, ignore_index=255, validate_args=False),
        "torchmetrics, checked": lambda: multiclass_confusion_matrix(pred_t, true_t, k, ignore_index=255),
    }
    ours = confusion(true, pred, k)
    assert all(np.array_equal(ours, np.asarray(call())) for call in rivals.values())
    times: dict[str, list[float]] = {name: [] for name in ("ours", *rivals)}
    for _ in range(repeats):
        times["ours"].append(_milliseconds(lambda: confusion(true, pred, k)))
        for name, call in rivals.items():
            times[name].append(_milliseconds(call))
    row: dict[str, Any] = {"maps": kind, **{f"{name}_ms": float(np.median(t)) for name, t in times.items()}}
    for name in rivals:
        row[f"times_{name}"] = float(np.median(np.array(times[name]) / np.array(times["ours"])))
    return row


def run(repeats: int = 5) -> dict[str, Any]:
    """Rows of milliseconds for all 50 maps and of how many times quicker we are (medians of paired ratios)."""
    torch.set_num_threads(1)
    regions = _maps(37, 0)
    shifted = np.roll(regions, 5, axis=2)  # a prediction that agrees inside and errs along edges
    kinds = {
        "regions": (regions, shifted),
        "4 px blocks": (_maps(4, 1), _maps(4, 2)),
        "noise": (_maps(1, 3), _maps(1, 4)),
    }
    rows = [_row(kind, true, pred, repeats) for kind, (true, pred) in kinds.items()]
    print(f"{'maps':12} {'ours':>9} {'numpy':>16} {'torchmetrics':>18} {'checked':>18}   (ms, times ours)")
    for row in rows:
        cells = "".join(
            f" {row[f'{name}_ms']:9.1f} {row[f'times_{name}']:6.1f}x"
            for name in ("numpy", "torchmetrics", "torchmetrics, checked")
        )
        print(f"{row['maps']:12} {row['ours_ms']:9.2f}{cells}")
    return {"rows": rows, "num_pixels": NUM_MAPS * SIDE_PX**2}


if __name__ == "__main__":
    run(*map(int, sys.argv[1:2]))
