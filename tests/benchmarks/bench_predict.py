"""`segsearch predict` against a bare PyTorch loop with the same members and views; two processes against one; peak
memory on a photograph of 6000 x 4000 in tiles; load time of a bundle.

    python tests/benchmarks/bench_predict.py [NUM_IMAGES]     # 16 JPEGs of 512 x 512, 11 classes

Two members (ConvNeXt-Atto, ResNet-18, SegFormer's MLP, random weights), the plain and the mirrored view of each. The
bare loop decodes, normalises, predicts, upsamples, votes and writes PNGs as a user would, one batch after the
other on one thread. Rates are medians of alternating runs; those of processes count their start. The seconds of
an import and a load, and the peak of the resident set, are those of processes of their own.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[2]))  # tests/analysis is not analysis

from factories import make_ensemble, make_member

from analysis.bundle.export import BundleFacts, export
from analysis.bundle.manifest import read_bundle
from analysis.prediction.job import Execution, Job
from analysis.prediction.predict_images import predict_images
from trainables.models.load import load_model
from trainables.models.segmentor import build_segmentor
from trainables.models.weights_file import save_weights
from trainables.recipe.augmentation import Augmentation
from trainables.recipe.recipe import Backbone, Recipe, SegFormerHead

CLASSES, BATCH = tuple(f"class {k}" for k in range(11)), 8
BACKBONES = ("convnext_atto.d2_in1k", "resnet18.a1_in1k")
LOAD = """
import sys, time
began_s = time.perf_counter()
from analysis.bundle import load
imported_s = time.perf_counter()
load(sys.argv[1], device="cpu")
print(imported_s - began_s, time.perf_counter() - imported_s)
"""
PEAK = """
import resource, sys
from pathlib import Path
from analysis.prediction.job import Execution, Job
from analysis.prediction.predict_images import predict_images
how = Execution("cpu", tile=(512, 0.25) if sys.argv[4] == "tiles" else None)
predict_images(Job(Path(sys.argv[1]), (sys.argv[2],), Path(sys.argv[3]), execution=how))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)
"""


def make_bundle(folder: Path) -> Path:
    members, weights = [], {}
    for n, name in enumerate(BACKBONES):
        recipe = Recipe(
            backbone=Backbone(name=name, pretrained=False),
            head=SegFormerHead(channels=128),
            augmentation=Augmentation(crop_px=512),
            seed=n,
        )
        torch.manual_seed(n)
        weights[str(n)] = (folder / str(n) / "best.safetensors",)
        save_weights(weights[str(n)][0], build_segmentor(recipe, len(CLASSES), pretrained=False).state_dict())
        facts = {"classes": CLASSES, "miou": 0.5, "epoch": 1, "data_fingerprint": "data", "split_fingerprint": "split"}
        about = json.dumps({"recipe": recipe.model_dump(mode="json"), **facts})
        weights[str(n)][0].with_suffix(".json").write_text(about, encoding="utf-8")
        views = ("s1.00-none", "s1.00-horizontal")
        members.append(make_member(str(n), recipe_hash=recipe.hash, family=recipe.family, views=views))
    weight = np.random.default_rng(0).uniform(0.5, 1.5, (2, len(CLASSES)))
    ensemble = make_ensemble(CLASSES, members)
    rules = tuple(
        rule.model_copy(update={"weights": tuple(map(tuple, weight.tolist()))})
        if rule.name == ensemble.verdict.rule
        else rule
        for rule in ensemble.rules
    )
    facts = BundleFacts("bench", "data", "split")
    return export(facts, ensemble.model_copy(update={"rules": rules}), weights, folder / "bundle")


def photograph(path: Path, height: int, width: int, seed: int) -> Path:
    """Smooth colours with some noise, as a JPEG."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (height // 32 + 1, width // 32 + 1, 3), dtype=np.uint8))
    pixels = np.asarray(small.resize((width, height), Image.Resampling.BICUBIC)).astype(np.int16)
    noisy = np.clip(pixels + rng.integers(-8, 9, (height, width, 1), dtype=np.int16), 0, 255).astype(np.uint8)
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(noisy).save(path, quality=90)
    return path


def bare_loop(bundle: Path, images: list[Path], out: Path) -> float:
    """Images per second, the load of the networks in it."""
    began_s = time.perf_counter()
    manifest = read_bundle(bundle).manifest
    models = [load_model(member.recipe, len(CLASSES), bundle / member.weights) for member in manifest.members]
    weights = torch.tensor(manifest.weights)  # (M,K)
    palette = [value for colour in manifest.palette for value in colour]
    out.mkdir()
    with torch.no_grad():
        for start in range(0, len(images), BATCH):
            paths = images[start : start + BATCH]
            batch = torch.stack([torch.from_numpy(np.array(Image.open(path).convert("RGB"))) for path in paths])
            batch = batch.permute(0, 3, 1, 2).float() / 255
            scores = torch.zeros(len(paths), len(CLASSES), *batch.shape[2:])
            for model, weight in zip(models, weights, strict=True):
                mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (model.mean, model.std))
                normal = (batch - mean) / std
                for flip in (False, True):
                    logits = model(normal.flip(-1)).flip(-1) if flip else model(normal)
                    large = torch.nn.functional.interpolate(logits, batch.shape[2:], mode="bilinear")
                    scores += weight.view(1, -1, 1, 1) * large.softmax(1) / 2
            for path, label in zip(paths, scores.argmax(1).byte().numpy(), strict=True):
                picture = Image.fromarray(label)
                picture.putpalette(palette)
                picture.save(out / f"{path.stem}.png")
    return len(images) / (time.perf_counter() - began_s)


def predicted(bundle: Path, images: Path, out: Path, workers: int = 1) -> float:
    """Images per second, all of the command in it but the imports of its own process."""
    how = Execution("cpu", BATCH, workers)
    began_s = time.perf_counter()
    outcome = predict_images(Job(bundle, (str(images),), out, execution=how))
    return outcome.predicted / (time.perf_counter() - began_s)


def in_process(code: str, *args: object) -> list[float]:
    done = subprocess.run([sys.executable, "-c", code, *map(str, args)], capture_output=True, text=True, check=True)
    return [float(word) for word in done.stdout.split()]


def alternated(calls: dict[str, Callable[[Path], float]], folder: Path, repeats: int) -> dict[str, float]:
    """The median rate of each, the runs of all of them taken in turn."""
    rates: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(repeats):
        for name, call in calls.items():
            rates[name].append(call(folder / f"{name}-{turn}"))
    return {name: statistics.median(values) for name, values in rates.items()}


def run(num_images: int = 16, repeats: int = 3) -> dict[str, Any]:
    """Prints and returns images per second and their ratios, GiB, seconds."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        bundle = make_bundle(folder)
        paths = [photograph(folder / "images" / f"{n:03}.jpg", 512, 512, n) for n in range(num_images)]
        predicted(bundle, photograph(folder / "warm" / "a.jpg", 512, 512, 0).parent, folder / "warm-out")  # kernels
        rates = alternated(
            {
                "bare": lambda out: bare_loop(bundle, paths, out),
                "predict": lambda out: predicted(bundle, folder / "images", out),
                "two": lambda out: predicted(bundle, folder / "images", out, workers=2),
            },
            folder,
            repeats,
        )
        print(f"images/s: bare {rates['bare']:.2f}, predict {rates['predict']:.2f}, two {rates['two']:.2f}", flush=True)
        large = photograph(folder / "large" / "a.jpg", 4000, 6000, 0)
        middle = photograph(folder / "middle" / "a.jpg", 2000, 3000, 0)
        peaks_gib = {
            what: in_process(PEAK, bundle, path, folder / f"peak-{what}", what.rpartition(" ")[2])[0]
            for what, path in {"512 x 512": paths[0], "3000 x 2000": middle, "6000 x 4000 in tiles": large}.items()
        }
        loads = [in_process(LOAD, bundle) for _ in range(repeats)]
    import_s, load_s = (statistics.median(values) for values in zip(*loads, strict=True))
    result = {
        "images_per_s": rates,
        "predict_over_bare": rates["predict"] / rates["bare"],
        "two_processes_over_one": rates["two"] / rates["predict"],
        "peak_gib": peaks_gib,
        "import_s": import_s,
        "load_s": load_s,
    }
    print(
        f"predict over the bare loop {result['predict_over_bare']:.2f}; "
        f"two processes over one {result['two_processes_over_one']:.2f}"
    )
    print("peak memory in GiB: " + ", ".join(f"{what} {gib:.2f}" for what, gib in peaks_gib.items()))
    print(f"import of `load` {import_s:.2f} s, load of the bundle {load_s:.2f} s (imports of torch and timm in it)")
    return result


if __name__ == "__main__":
    run(*map(int, sys.argv[1:2]))
