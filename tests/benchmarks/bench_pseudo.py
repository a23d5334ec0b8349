"""What pseudo labels gain on the synthetic set with nine tenths of the training labels hidden.

    python tests/benchmarks/bench_pseudo.py [--seeds 3] [--epochs 60] [--schedule continue_then_real]

Per seed a small network is trained on the labels that are left; it labels the other training images, and goes on with
both kinds of labels for half as many epochs. Printed are mIoU on the hold-out of the teacher and of its student, and
the mean gain over seeds with Student's t interval.
"""

from __future__ import annotations

import json
import sys
import tempfile
from argparse import ArgumentParser
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from scipy import stats

sys.path.insert(0, str(Path(__file__).parents[1]))
from finished_runs import make_finished_run

from analysis.ensembling.pseudo_result import PseudoOptions, PseudoResult
from search.run_dir import RunDir
from search.students import pseudo
from search.students.finished_run import open_finished
from trainables.data.cache import Cache
from trainables.data.index import Split
from trainables.data.synthetic.dataset import write_synthetic
from trainables.recipe.recipe import Recipe
from trainables.training.checkpoint import drop_older_epochs
from trainables.training.fit import Trial, fit

NUM_IMAGES, IMAGE_PX, HIDDEN = 480, 128, 0.9
SPACE = """
model: {backbone: mobilenetv4_conv_small, pretrained: false, head: {name: segformer, channels: 64}}
ensemble: {resamples: 1000, sample_mb: 64, folds: 3, postprocess: off, stacking: off}
"""


def hide_labels(root: Path, seed: int) -> Path:
    """The synthetic set with the annotations of HIDDEN of its training scenes taken away."""
    card = write_synthetic(root, num_images=NUM_IMAGES, image_px=IMAGE_PX, seed=seed)
    coco = json.loads((root / "train.json").read_text(encoding="utf-8"))
    images = coco["images"]
    scenes = sorted({image["file_name"].partition("/")[0] for image in images})
    kept: set[int] = set()
    for scene in np.random.default_rng(seed).permutation(scenes):  # whole ones: images of a scene resemble each other
        if len(kept) < len(images) * (1 - HIDDEN):
            kept |= {image["id"] for image in images if image["file_name"].startswith(f"{scene}/")}
    parts = {
        "train-few.json": [image for image in images if image["id"] in kept],
        "unlabelled.json": [image for image in images if image["id"] not in kept],
    }
    for name, some in parts.items():
        ids = {image["id"] for image in some} & kept
        objects = [one for one in coco["annotations"] if one["image_id"] in ids]
        (root / name).write_text(json.dumps({**coco, "images": some, "annotations": objects}), encoding="utf-8")
    values = yaml.safe_load(card.read_text(encoding="utf-8"))
    few = root / "few.yaml"
    few.write_text(yaml.safe_dump({**values, "train": "train-few.json", "unlabelled": "unlabelled.json"}))
    return few


def recipe_of(seed: int, epochs: int) -> Recipe:
    values: dict[str, Any] = {
        "backbone": {"name": "mobilenetv4_conv_small", "pretrained": False},
        "head": {"name": "segformer", "channels": 64},
        "augmentation": {"crop_px": 96, "scale_min": 0.75, "scale_max": 1.5},
        "optimizer": {"lr": 4e-3, "warmup_epochs": 0.5},
        "train": {"num_epochs": epochs, "batch_size": 4, "num_workers": 0, "ema_decay": 0.95, "amp": "off"},
        "seed": seed,
    }
    return Recipe.model_validate(values)


def train(recipe: Recipe, cache: Cache, split: Split, folder: Path) -> float:
    done = fit(Trial(recipe, cache, split, folder, "cpu"), lambda one: drop_older_epochs(one.checkpoint_dir))
    return float(done["best/miou"])


def gain_of(root: Path, seed: int, epochs: int, options: PseudoOptions) -> PseudoResult:
    run, card = RunDir(root / f"run-{seed}" / "run"), hide_labels(root / f"data-{seed}", seed)
    make_finished_run(run, card, SPACE, [recipe_of(seed, epochs)], train)
    finished = open_finished(run, root / f"run-{seed}" / "cache", say=print, now=lambda: datetime.now().astimezone())
    return pseudo.run(finished, options, run.pseudo, device="cpu", ranks=1)


def main() -> None:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--schedule", default="continue_then_real")
    asked = parser.parse_args()
    options = PseudoOptions(schedule=asked.schedule, rule="best_single", min_certain=0.05, epochs=asked.epochs // 2)
    gains = []
    with tempfile.TemporaryDirectory() as root:
        for seed in range(asked.seeds):
            result = gain_of(Path(root), seed, asked.epochs, options)
            print(f"seed {seed}: {result.sentence}", flush=True)
            found = result.comparison
            if found is not None:
                print(f"  teacher {found.single.miou:.3f}, student {found.distilled.miou:.3f}", flush=True)
            gains.append(0.0 if found is None else found.over_single.gain)  # the plain model stays
    mean, error = float(np.mean(gains)), float(stats.sem(gains)) if len(gains) > 1 else float("nan")
    half = float(stats.t.ppf(0.975, len(gains) - 1)) * error if len(gains) > 1 else float("nan")
    print(f"{asked.schedule}: gain {mean:+.3f} +- {half:.3f} over {len(gains)} seeds: {[round(g, 3) for g in gains]}")


if __name__ == "__main__":
    main()
