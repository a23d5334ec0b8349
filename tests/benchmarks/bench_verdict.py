"""From six trials' logits to the verdict: minutes and peak memory.

    python tests/benchmarks/bench_verdict.py                     # a small set and a small sample, under a minute
    BENCH_IMAGES=655 python tests/benchmarks/bench_verdict.py    # the whole of it, with the sample that spaces ask for

Six made-up members of 11 classes at stride 4, images of 512 x 512, half of them val and half hold-out. The members'
errors are correlated, as those of real ones are: each sees the scene through noise that all share and noise of its
own, and has classes that it is worse at. `fit_ensemble` runs in child processes: once to compile, once with half of the
images and once with all: the difference is the cost of an image, the rest is the cost of fitting. Peak memory is the
child's own (ru_maxrss); what it holds after its imports is told beside it.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from analysis.ensembling.fit import fit_ensemble
from analysis.ensembling.judge_on_holdout import Provenance
from analysis.ensembling.options import EnsembleOptions
from analysis.ensembling.result import HoldoutOpening
from analysis.voting.labelled_logits import LabelledLogits
from trainables.data.index import ImageRecord, SegIndex
from trainables.logits.shard_format import LogitHeader
from trainables.logits.store import LogitStore, LogitWriter

MEMBERS, CLASSES, STRIDE, SIDE = 6, 11, 4, 512
ISSUE_IMAGES = 655
SMALL = (24, 32)  # images, MiB of sampled probabilities
SAMPLE_MB = 512  # as spaces/base.yaml


def _field(rng: np.random.Generator, cells: int, side: int) -> np.ndarray:
    """(side,side,K) smooth noise of unit variance at its nodes."""
    noise = rng.standard_normal((cells, cells, CLASSES), np.float32)
    return np.asarray(cv2.resize(noise, (side, side), interpolation=cv2.INTER_LINEAR))


def write_images(root: Path, num_images: int) -> None:
    """labels/<id>.npy, and a store per member and split."""
    grid = SIDE // STRIDE
    rarity = np.linspace(0.8, -0.8, CLASSES, dtype=np.float32)  # some classes are rare
    own = np.random.default_rng(1).uniform(0.15, 0.45, (MEMBERS, CLASSES)).astype(np.float32)
    (root / "labels").mkdir()
    for part, ids in _parts(num_images).items():
        writers = [
            LogitWriter(
                root / f"{m}" / part,
                LogitHeader(
                    trial=f"{m}", recipe_hash="r", family="f", split=part, view="s1.00-none",  # type: ignore[arg-type]
                    classes=tuple(f"c{k}" for k in range(CLASSES)), stride=STRIDE, data_fingerprint="d",
                    split_fingerprint="s", checkpoint_fingerprint=f"{m}",
                ),
            )
            for m in range(MEMBERS)
        ]  # fmt: skip
        for image_id in ids:
            rng = np.random.default_rng(int(image_id))
            scene = _field(rng, 12, grid) + rarity
            fine = cv2.resize(scene, (SIDE, SIDE), interpolation=cv2.INTER_LINEAR)
            np.save(root / "labels" / f"{image_id}.npy", fine.argmax(2).astype(np.uint8))
            shared = _field(rng, 16, grid)
            for m, writer in enumerate(writers):
                seen = 4 * (scene + 0.5 * shared + own[m] * _field(rng, 16, grid))
                writer.add(image_id, np.ascontiguousarray(seen.transpose(2, 0, 1)).astype(np.float16), (SIDE, SIDE))
        for writer in writers:
            writer.close()


def _parts(num_images: int) -> dict[str, list[str]]:
    names = [f"{n:05d}" for n in range(num_images)]
    return {"val": names[0::2], "holdout": names[1::2]}


class _Labels:
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def label(self, image_id: str) -> Any:
        return np.load(self.folder / f"{image_id}.npy")


def child(root: Path, num_images: int, sample_mb: int) -> dict[str, Any]:
    """What one call of `fit_ensemble` takes, in a process that does nothing else."""
    baseline = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    parts = _parts(num_images)
    records = tuple(
        ImageRecord(i, root / i, SIDE, SIDE, i, "val" if part == "val" else "holdout")
        for part, ids in parts.items()
        for i in ids
    )
    index = SegIndex("made-up", records, tuple(f"c{k}" for k in range(CLASSES)), "d", False)
    val, holdout = (
        LabelledLogits.of(
            [LogitStore(root / f"{m}" / part) for m in range(MEMBERS)], ids, _Labels(root / "labels"), index
        )
        for part, ids in parts.items()
    )
    begin, cpu = time.perf_counter(), time.process_time()
    result = fit_ensemble(
        val,
        holdout,
        EnsembleOptions(sample_mb=sample_mb),
        Provenance(HoldoutOpening(at="2026-01-01T00:00:00+00:00", by="a benchmark")),
        root / f"out-{num_images}",
    )
    return {
        "images": num_images,
        "wall_s": time.perf_counter() - begin,
        "cpu_s": time.process_time() - cpu,
        "peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9,
        "imports_gb": baseline * 1024 / 1e9,
        "holdout_miou": {rule.name: rule.holdout.miou for rule in result.rules},
        "verdict": result.verdict.sentence,
    }


def run() -> dict[str, Any]:
    """Both sizes, the seconds an image and those of fitting, and what 655 images would take by them."""
    asked = os.environ.get("BENCH_IMAGES")
    num_images, sample_mb = (int(asked), SAMPLE_MB) if asked else SMALL
    rows = []
    with tempfile.TemporaryDirectory() as name:
        write_images(Path(name), num_images)
        for count, memory in ((8, 1), (num_images // 2, sample_mb), (num_images, sample_mb)):
            command = [sys.executable, __file__, "--child", name, str(count), str(memory)]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            rows.append(json.loads(done.stdout.splitlines()[-1]))
    _compiled, half, whole = rows
    a_image = (whole["cpu_s"] - half["cpu_s"]) / (whole["images"] - half["images"])
    fitting = whole["cpu_s"] - a_image * whole["images"]
    result = {
        "sample_mb": sample_mb,
        "rows": [half, whole],
        "cpu_s_an_image": a_image,
        "cpu_s_fitting": fitting,
        "minutes_of_655": (fitting + a_image * ISSUE_IMAGES) / 60,
    }
    print(f"sample {sample_mb} MiB\n{'images':>6} {'wall s':>8} {'CPU s':>8} {'peak GB':>8} {'after imports':>13}")
    for row in (half, whole):
        print("{images:6d} {wall_s:8.1f} {cpu_s:8.1f} {peak_gb:8.2f} {imports_gb:13.2f}".format(**row))
    print(
        f"an image {1000 * a_image:.0f} ms, fitting {fitting:.1f} s; so {ISSUE_IMAGES} images with this sample "
        f"{result['minutes_of_655']:.1f} min on one core"
    )
    print(" ".join(f"{name} {score:.4f}" for name, score in whole["holdout_miou"].items()))
    print(whole["verdict"])
    return result


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        print(json.dumps(child(Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))))
    else:
        run()
