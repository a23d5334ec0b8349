"""What pseudo labels gain where most training labels are hidden, by each schedule.

    python tests/benchmarks/bench_pseudo.py [--seeds 3] [--epochs 60] [--schedules continue_then_real]
    python tests/benchmarks/bench_pseudo.py --camvid CAMVID --epochs 40 --schedules scratch continue ...

Per seed a small network is trained on the labels that are left: of the synthetic set those of a tenth of the scenes, of
CamVid 60 frames. It labels the other training images, and per schedule a student learns from both for half as many
epochs. Printed are mIoU on the hold-out without and with pseudo labels, the gain on val, and per schedule the mean gain
over seeds with Student's t interval.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from argparse import ArgumentParser
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from scipy import stats

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[2]))  # tests/analysis is not analysis
from finished_runs import make_finished_run

from analysis.ensembling.pseudo_options import PseudoOptions
from analysis.ensembling.pseudo_result import PseudoResult
from analysis.ensembling.verdict import signed
from analysis.pseudo_labels.leaks import near_pairs
from search.run_dir import RunDir
from search.students import pseudo
from search.students.finished_run import open_finished
from search.students.pseudo_steps import InSequence, Setting
from trainables.data.cache import Cache
from trainables.data.card import read_card
from trainables.data.index import Split
from trainables.data.reader import read
from trainables.data.splits.near_duplicates import hash_images
from trainables.data.synthetic.dataset import write_synthetic
from trainables.recipe.recipe import Recipe
from trainables.training.checkpoint import drop_older_epochs
from trainables.training.fit import Trial, fit

NUM_IMAGES, IMAGE_PX, HIDDEN = 480, 128, 0.9
CAMVID_LABELLED, CAMVID_PX = 60, 160
SPACE = """
model: {backbone: mobilenetv4_conv_small, pretrained: false, head: {name: segformer, channels: 64}}
ensemble: {resamples: 1000, sample_mb: 64, folds: 3, postprocess: off, stacking: off}
"""


def synthetic_card(root: Path, seed: int) -> Path:
    """The synthetic set with the annotations of HIDDEN of its training scenes taken away."""
    card = write_synthetic(root, num_images=NUM_IMAGES, image_px=IMAGE_PX, seed=seed)
    images = json.loads((root / "train.json").read_text(encoding="utf-8"))["images"]
    scenes = sorted({image["file_name"].partition("/")[0] for image in images})
    kept: set[int] = set()
    for scene in np.random.default_rng(seed).permutation(scenes):  # whole ones: images of a scene resemble each other
        if len(kept) < len(images) * (1 - HIDDEN):
            kept |= {image["id"] for image in images if image["file_name"].startswith(f"{scene}/")}
    return hide_labels(root, card, kept, set())


def camvid_card(source: Path, root: Path, seed: int) -> Path:
    """CamVid with the labels of CAMVID_LABELLED training frames; the other frames are unlabelled, but for those that
    nearly are labelled ones, which pseudo labels refuse. Frames are resampled, and not sequences: its val is one alone,
    so that intervals are too narrow."""
    root.mkdir()
    for path in source.iterdir():
        (root / path.name).symlink_to(path.resolve())
    images = sorted(json.loads((root / "train.json").read_text(encoding="utf-8"))["images"], key=lambda i: i["id"])
    first = seed % (len(images) // CAMVID_LABELLED)
    kept = {image["id"] for image in images[first :: len(images) // CAMVID_LABELLED][:CAMVID_LABELLED]}
    values = yaml.safe_load((root / "data.yaml").read_text(encoding="utf-8"))
    frames = root / "frames.yaml"
    ungrouped = {key: value for key, value in values.items() if key != "group"}
    frames.write_text(yaml.safe_dump({**ungrouped, "follow_links": True}))
    index = read(read_card(hide_labels(root, frames, kept, set())))
    cache = Cache.open(index, root / "cache")
    unlabelled = index.ids("unlabelled")
    labelled = [image.image_id for image in index.images if image.role != "unlabelled"]
    near = near_pairs(hash_images(unlabelled, cache.image), hash_images(labelled, cache.image))
    print(f"{len(near)} of {len(unlabelled)} other frames nearly are labelled ones, and are left out")
    return hide_labels(root, frames, kept, {image["id"] for image in images if image["file_name"] in near})


def hide_labels(root: Path, card: Path, kept: set[int], left_out: set[int]) -> Path:
    """few.yaml: the card with the annotations of these training images; the others are unlabelled, or left out."""
    coco = json.loads((root / "train.json").read_text(encoding="utf-8"))
    parts = {
        "train-few.json": [image for image in coco["images"] if image["id"] in kept],
        "unlabelled.json": [image for image in coco["images"] if image["id"] not in kept | left_out],
    }
    for name, some in parts.items():
        ids = {image["id"] for image in some} & kept
        objects = [one for one in coco["annotations"] if one["image_id"] in ids]
        (root / name).write_text(json.dumps({**coco, "images": some, "annotations": objects}), encoding="utf-8")
    values = yaml.safe_load(card.read_text(encoding="utf-8"))
    few = root / "few.yaml"
    few.write_text(yaml.safe_dump({**values, "train": "train-few.json", "unlabelled": "unlabelled.json"}))
    return few


def recipe_of(seed: int, epochs: int, *, camvid: bool) -> Recipe:
    sizes = {"short_px": CAMVID_PX, "crop_px": CAMVID_PX} if camvid else {"crop_px": 96}
    values: dict[str, Any] = {
        "backbone": {"name": "mobilenetv4_conv_small", "pretrained": False},
        "head": {"name": "segformer", "channels": 64},
        "augmentation": {**sizes, "scale_min": 0.75, "scale_max": 1.5},
        "optimizer": {"lr": 4e-3, "warmup_epochs": 0.5},
        "train": {"num_epochs": epochs, "batch_size": 4, "num_workers": 0, "ema_decay": 0.95, "amp": "off"},
        "seed": seed,
    }
    return Recipe.model_validate(values)


def train(recipe: Recipe, cache: Cache, split: Split, folder: Path) -> float:
    done = fit(Trial(recipe, cache, split, folder, "cpu"), lambda one: drop_older_epochs(one.checkpoint_dir))
    return float(done["best/miou"])


def results_of(root: Path, seed: int, asked: Any) -> dict[str, PseudoResult]:
    """By schedule, from one run."""
    run, data = RunDir(root / f"run-{seed}" / "run"), root / f"data-{seed}"
    card = camvid_card(asked.camvid, data, seed) if asked.camvid else synthetic_card(data, seed)
    before = time.process_time()
    make_finished_run(run, card, SPACE, [recipe_of(seed, asked.epochs, camvid=bool(asked.camvid))], train)
    print(f"seed {seed}, teacher and its verdict: {time.process_time() - before:.0f} s of CPU time")
    finished = open_finished(run, root / f"run-{seed}" / "cache", say=print, now=lambda: datetime.now().astimezone())
    found = {}
    for schedule in asked.schedules:
        before = time.process_time()
        options = options_of(schedule, asked.epochs // 2)
        steps = InSequence(Setting(finished, options, "cpu", 1))
        found[schedule] = pseudo.run(steps, run.root / f"pseudo-{schedule}")
        spent = f"{time.process_time() - before:.0f} s of CPU time"
        print(f"seed {seed}, {schedule}, {spent}: {found[schedule].sentence}; {on_val(found[schedule])}", flush=True)
    return found


def options_of(schedule: str, epochs: int) -> PseudoOptions:
    own = {} if schedule == "consistency" else {"min_certain": 0.05}
    return PseudoOptions.model_validate({"schedule": schedule, "rule": "best_single", "epochs": epochs, **own})


def on_val(result: PseudoResult) -> str:
    first = result.rounds[0]
    if first.gain is None:
        return "no student"
    [student] = first.tried
    return f"val {student.miou - first.gain.gain:.3f} to {student.miou:.3f}, {signed(first.gain)}"


def describe(schedule: str, results: Sequence[PseudoResult]) -> str:
    gains = [0.0 if one.comparison is None else one.comparison.over_single.gain for one in results]  # else it stays
    steps = [gain.gain for one in results if (gain := one.rounds[0].gain) is not None]
    shown = f"{schedule}: on val {[round(g, 3) for g in steps]}, on the hold-out {[round(g, 3) for g in gains]}"
    for one in results:
        if one.comparison is not None:
            shown += f"; {one.comparison.single.miou:.3f} to {one.comparison.distilled.miou:.3f}"
    if len(gains) > 1:
        half = float(stats.t.ppf(0.975, len(gains) - 1) * stats.sem(gains))
        shown += f"; mean {np.mean(gains):+.3f} +- {half:.3f}"
    return shown


def main() -> None:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--schedules", nargs="+", default=["continue_then_real"])
    parser.add_argument("--camvid", type=Path, help="the folder of CamVid's data card")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as root:
        found = [results_of(Path(root), seed, asked) for seed in range(asked.seeds)]
    for schedule in asked.schedules:
        print(describe(schedule, [one[schedule] for one in found]))


if __name__ == "__main__":
    main()
