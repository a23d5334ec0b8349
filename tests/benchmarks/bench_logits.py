"""The logit store: bytes a label pixel, MB/s written and read against a raw copy of the same bytes, upsampling
against torch.

    python tests/benchmarks/bench_logits.py [NUM_IMAGES]     # 100 images of 512 x 512 at stride 4, 11 classes

A raw copy is `write` of the same arrays into one file, and `readinto` one buffer of that file. Both readers then sum
the words that they got, so that every byte was touched: a mapped view that nobody looks at would cost nothing, and one
that is copied first pays for memory that no reader of the store asks for. Files lie in the system's folder for
temporary files and are read back from the page cache, as they are right after the logits stage.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from analysis.voting.probabilities import probabilities
from trainables.logits.shard_format import Dtype, LogitHeader
from trainables.logits.store import LogitStore, LogitWriter, forecast_bytes

NUM_CLASSES, GRID, SIZE, VIEW = 11, (128, 128), (512, 512), "s1.00-none"


def _seconds(call: Callable[[], Any]) -> float:
    begin = time.process_time()
    call()
    return time.process_time() - begin


def _write_store(folder: Path, grids: list[np.ndarray], dtype: Dtype = "float16") -> None:
    header = LogitHeader(
        trial="t", recipe_hash="r", family="f", split="val", view=VIEW, stride=4,
        classes=tuple(f"c{k}" for k in range(NUM_CLASSES)), data_fingerprint="d", split_fingerprint="s",
        checkpoint_fingerprint="c", dtype=dtype,
    )  # fmt: skip
    with LogitWriter(folder, header) as writer:
        for i, grid in enumerate(grids):
            writer.add(f"batch_01/{i:05d}.jpg", grid, SIZE)


def _write_raw(path: Path, grids: list[np.ndarray]) -> None:
    with path.open("wb", buffering=0) as file:
        for grid in grids:
            grid.tofile(file)


def _read_store(folder: Path) -> int:
    store = LogitStore(folder)
    return sum(int(store.logits(VIEW, i).reshape(-1).view(np.uint64).sum()) for i in store.image_ids)


def _read_raw(path: Path, num_bytes: int) -> int:
    total, buffer = 0, np.empty(num_bytes // 8, np.uint64)
    with path.open("rb", buffering=0) as file:
        while file.readinto(buffer):  # type: ignore[arg-type]
            total += int(buffer.sum())
    return total


def _to_float32(folder: Path) -> None:
    store = LogitStore(folder)
    for image_id in store.image_ids:
        store.logits(VIEW, image_id).astype(np.float32)


def _by_torch(grid: np.ndarray) -> torch.Tensor:
    logits = torch.from_numpy(grid.astype(np.float32))[None]
    return torch.nn.functional.interpolate(logits, SIZE, mode="bilinear", align_corners=False).softmax(1)


def run(num_images: int = 100, repeats: int = 5) -> dict[str, Any]:
    """Medians of paired ratios: our MB/s over the raw copy's, torch's milliseconds over ours for upsampling and
    softmax."""
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    grids = [(4 * rng.standard_normal((NUM_CLASSES, *GRID), np.float32)).astype(np.float16) for _ in range(num_images)]
    num_bytes = sum(grid.nbytes for grid in grids)
    with tempfile.TemporaryDirectory() as name:
        folder, raw, small = Path(name) / "store", Path(name) / "raw.bin", Path(name) / "small"
        names = ("write", "write_raw", "read", "read_raw", "write_8bit", "float32", "float32_8bit")
        times: dict[str, list[float]] = {what: [] for what in names}
        for _ in range(repeats):
            times["write_raw"].append(_seconds(lambda: _write_raw(raw, grids)))
            times["write"].append(_seconds(lambda: _write_store(folder, grids)))
            times["read_raw"].append(_seconds(lambda: _read_raw(raw, grids[0].nbytes)))
            times["read"].append(_seconds(lambda: _read_store(folder)))
            times["write_8bit"].append(_seconds(lambda: _write_store(small, grids, "uint8")))
            times["float32"].append(_seconds(lambda: _to_float32(folder)))
            times["float32_8bit"].append(_seconds(lambda: _to_float32(small)))
        on_disk = sum(path.stat().st_size for path in folder.iterdir())
        on_disk_8bit = sum(path.stat().st_size for path in small.iterdir())
        store, memory = LogitStore(folder), np.empty((NUM_CLASSES, *SIZE), np.float32)
        first = store.image_ids[0]
        probabilities(store, [VIEW], first, memory)
        ours = [_seconds(lambda: probabilities(store, [VIEW], first, memory)) for _ in range(4 * repeats)]
        theirs = [_seconds(lambda: _by_torch(grids[0])) for _ in range(4 * repeats)]
    rows = [
        {
            "what": what,
            "mb_per_s": num_bytes / 1e6 / float(np.median(times[what])),
            "raw_mb_per_s": num_bytes / 1e6 / float(np.median(times[f"{what}_raw"])),
            "of_raw": float(np.median(np.array(times[f"{what}_raw"]) / np.array(times[what]))),
        }
        for what in ("write", "read")
    ]
    result = {
        "rows": rows,
        "bytes_a_label_pixel": on_disk / (num_images * SIZE[0] * SIZE[1]),
        "bytes_a_label_pixel_8bit": on_disk_8bit / (num_images * SIZE[0] * SIZE[1]),
        "to_float32_ms": 1000 * float(np.median(times["float32"])) / num_images,
        "to_float32_8bit_ms": 1000 * float(np.median(times["float32_8bit"])) / num_images,
        "write_8bit_ms": 1000 * float(np.median(times["write_8bit"])) / num_images,
        "forecast_over_written": forecast_bytes(num_images, NUM_CLASSES, [GRID]) / on_disk,
        "upsample_ms": 1000 * float(np.median(ours)),
        "torch_over_ours": float(np.median(np.array(theirs) / np.array(ours))),
    }
    print(f"{'':6} {'MB/s':>8} {'raw MB/s':>9} {'of raw':>7}")
    for row in rows:
        print(f"{row['what']:6} {row['mb_per_s']:8.0f} {row['raw_mb_per_s']:9.0f} {row['of_raw']:7.2f}")
    print(
        f"bytes a label pixel {result['bytes_a_label_pixel']:.3f}; forecast {result['forecast_over_written']:.3f}; "
        f"8 bits {result['bytes_a_label_pixel_8bit']:.3f}"
    )
    print(
        f"one image to float32 {result['to_float32_ms']:.2f} ms, from 8 bits {result['to_float32_8bit_ms']:.2f}; "
        f"to write one in 8 bits {result['write_8bit_ms']:.2f} ms"
    )
    print(f"one image to probabilities {result['upsample_ms']:.1f} ms, torch {result['torch_over_ours']:.1f}x that")
    return result


if __name__ == "__main__":
    run(*map(int, sys.argv[1:2]))
