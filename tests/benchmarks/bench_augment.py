"""What the loader yields: samples a second a core at 512 x 512, the time of each operator, mixing's cost, memory.

    python tests/benchmarks/bench_augment.py

Presets from the cache and decoded each time (with our operators), against the plain way (cv2.imread, pycocotools, the
same recipe of albumentations' own operators), in turns over the same images; a rate is the median over rounds.
Piecewise affine takes the plain way seconds a sample, so its share of that preset is measured by itself and added.
Memory is the proportional set size (PSS) of loader workers, the cache's mapped pages apart from the rest. Raise
NUM_SAMPLES and NUM_ROUNDS for steadier figures.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"

import albumentations as A
import cv2
import numpy as np
import torch
from bench_cache import write_set
from pycocotools import mask as coco_mask

from trainables.data.augment.build_transforms import PIXEL_STEPS
from trainables.data.augment.crop import PAD_RGB, ScaledCrop
from trainables.data.augment.geometry import Warp
from trainables.data.augment.pipeline import reseed
from trainables.data.augment.train_set import TrainSet, stop_workers, train_loader
from trainables.data.cache import Cache
from trainables.data.card import read_card
from trainables.data.image_file import read_image
from trainables.data.index import ImageRecord, SegIndex
from trainables.data.raster import rasterise
from trainables.data.reader import read
from trainables.recipe.augmentation import PRESETS, Augmentation
from trainables.recipe.operators import Blurs, Channels, Colour, Cutout, Elastic, Geometric, Group, Noise

NUM_SAMPLES, NUM_ROUNDS = 48, 5
NUM_TIMED = 15  # of each operator
NUM_WORKERS = 8
FILL: dict[str, Any] = {"border_mode": cv2.BORDER_CONSTANT, "fill": PAD_RGB, "fill_mask": 255}


def seconds(job: Callable[[], object]) -> float:
    start = time.perf_counter()
    job()
    return time.perf_counter() - start


def plain_operator(name: str, o: Any) -> A.BasicTransform:
    """albumentations' own operator with the same ranges."""
    if name == "ShiftScaleRotate":
        limits = {"shift_limit": o.shift_limit, "scale_limit": o.scale_limit, "rotate_limit": o.rotate_limit_deg}
        return A.ShiftScaleRotate(**limits, **FILL, p=o.p)
    if name == "Affine":
        scale, shift = (1 - o.scale_limit, 1 + o.scale_limit), (-o.translate_limit, o.translate_limit)
        turn, shear = (-o.rotate_limit_deg, o.rotate_limit_deg), (-o.shear_limit_deg, o.shear_limit_deg)
        return A.Affine(scale=scale, translate_percent=shift, rotate=turn, shear=shear, **FILL, p=o.p)
    if name == "Perspective":
        return A.Perspective(scale=(0.05, o.scale_max), **FILL, p=o.p)
    if name == "ElasticTransform":
        return A.ElasticTransform(alpha=o.alpha, sigma=o.sigma_px, **FILL, p=o.p)
    if name == "PiecewiseAffine":
        return A.PiecewiseAffine(scale=(0.03, o.scale_max), nb_rows=(4, 4), nb_cols=(4, 4), **FILL, p=o.p)
    if name == "GaussNoise":
        return A.GaussNoise(std_range=(0.01, o.std_max), p=o.p)
    return PIXEL_STEPS[name](o)


def plain_pipeline(aug: Augmentation, skip: Iterable[str] = ()) -> A.Compose:
    """The recipe without our operators: resize all, then crop. `skip` keeps an operator's place in its one-of."""
    steps: list[Any] = [
        A.RandomScale(scale_limit=(aug.scale_min - 1, aug.scale_max - 1), p=1.0),
        A.PadIfNeeded(aug.crop_px, aug.crop_px, **FILL),
        A.RandomCrop(aug.crop_px, aug.crop_px),
        A.HorizontalFlip(p=aug.hflip_p),
        A.VerticalFlip(p=aug.vflip_p),
    ]
    groups = (aug.geometric, aug.elastic, aug.colour, aug.colour.channels, aug.noise, aug.blur, aug.cutout)
    for group in groups:
        named = group.operators().items()
        inner = [A.NoOp(p=o.p) if name in skip else plain_operator(name, o) for name, o in named]
        if inner:
            steps.append(A.OneOf(inner, p=group.p) if group.one_of else A.Sequential(inner, p=group.p))
    if aug.colour_p:
        ranges = {"brightness": (0.7, 1.3), "contrast": (0.7, 1.3), "saturation": (0.6, 1.4), "hue": (-0.04, 0.04)}
        steps.append(A.ColorJitter(**ranges, p=aug.colour_p))
    return A.Compose(steps)


def plain_decode(record: ImageRecord) -> tuple[np.ndarray, np.ndarray]:
    """cv2.imread and annToMask, largest first."""
    image = cv2.cvtColor(cv2.imread(str(record.path)), cv2.COLOR_BGR2RGB)
    label = np.zeros(image.shape[:2], np.uint8)
    for each in sorted(record.annotations, key=lambda a: -a.area):
        rle = coco_mask.merge(coco_mask.frPyObjects(each.segmentation, *label.shape))
        label[coco_mask.decode(rle) == 1] = each.class_index
    return image, label


class Decoding:
    """A cache that is none: the same views, decoded and painted each time."""

    def __init__(self, cache: Cache) -> None:
        self.index, self.class_pixels_by_image, self.size = cache.index, cache.class_pixels_by_image, cache.size
        self._records = cache.index.by_id()

    def image(self, image_id: str) -> np.ndarray:
        return read_image(self._records[image_id].path)

    def label(self, image_id: str) -> np.ndarray:
        return rasterise(self._records[image_id], self.index.ignore_index)


def to_item(image: np.ndarray, label: np.ndarray) -> None:
    torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
    torch.from_numpy(label).long()


def rates(aug: Augmentation, cache: Cache, skip: tuple[str, ...] = ()) -> dict[str, float]:
    """Samples a second of one core, four ways in turn."""
    ids = [record.image_id for record in cache.index.images][:NUM_SAMPLES]
    records = cache.index.by_id()
    cached, decoding = TrainSet(cache, ids, aug, 0), TrainSet(Decoding(cache), ids, aug, 0)  # type: ignore[arg-type]
    plain = plain_pipeline(aug, skip)
    decoded = {image_id: plain_decode(records[image_id]) for image_id in ids}

    def pass_of(dataset: TrainSet) -> None:
        for n in range(len(ids)):
            dataset[n]

    def plain_pass(from_memory: bool) -> None:
        for n, image_id in enumerate(ids):
            reseed(plain, 0, n)
            image, label = decoded[image_id] if from_memory else plain_decode(records[image_id])
            out = plain(image=image, mask=label)
            to_item(out["image"], out["mask"])

    ways: dict[str, Callable[[], None]] = {
        "cache": lambda: pass_of(cached),
        "decoding": lambda: pass_of(decoding),
        "plain": lambda: plain_pass(False),
        "plain_memory": lambda: plain_pass(True),
    }
    taken = {name: [] for name in ways}  # type: dict[str, list[float]]
    for number in range(NUM_ROUNDS):
        cached.set_epoch(number)
        decoding.set_epoch(number)
        for name, way in ways.items():
            taken[name].append(seconds(way) / len(ids))
    row = {name: 1 / statistics.median(values) for name, values in taken.items()}
    row["ratio"] = statistics.median(p / c for p, c in zip(taken["plain"], taken["cache"], strict=True))
    row["ratio_memory"] = statistics.median(p / c for p, c in zip(taken["plain_memory"], taken["cache"], strict=True))
    return row


def operator_times(image: np.ndarray, label: np.ndarray) -> dict[str, dict[str, float]]:
    """Milliseconds of each operator alone, ours and albumentations', image and label; medians."""
    groups: dict[str, type[Group]] = {
        "geometric": Geometric, "elastic": Elastic, "colour": Colour, "channels": Channels,
        "noise": Noise, "blur": Blurs, "cutout": Cutout,
    }  # fmt: skip
    table: dict[str, dict[str, float]] = {}
    for section, kind in groups.items():
        for name in (key for key in kind.model_fields if key[0].isupper()):
            values = {name: {"p": 1.0}}
            operator = getattr(kind.model_validate(values), name)
            warps = section in ("geometric", "elastic")
            ours = Warp(**{section: values}) if warps else PIXEL_STEPS[name](operator)
            table[name] = {"ms": step_ms(ours, image, label, NUM_TIMED)}
            if warps or name == "GaussNoise":
                count = 1 if name == "PiecewiseAffine" else NUM_TIMED
                table[name]["albumentations_ms"] = step_ms(plain_operator(name, operator), image, label, count)
    table["ScaledCrop"] = {"ms": step_ms(ScaledCrop(512, None, 0.5, 2.0, 0.75), image, label, NUM_TIMED)}
    return table


def step_ms(step: Any, image: np.ndarray, label: np.ndarray, count: int) -> float:
    pipeline = A.Compose([step])
    reseed(pipeline, 0)
    if count > 1:
        pipeline(image=image, mask=label)
    return 1000 * statistics.median(seconds(lambda: pipeline(image=image, mask=label)) for _ in range(count))


def mixing_costs(cache: Cache) -> dict[str, float]:
    """Extra milliseconds a sample of each way to mix, at p = 1, against the same recipe without; medians of rounds."""
    ids = [record.image_id for record in cache.index.images][:NUM_SAMPLES]
    names = ("none", "mosaic", "cutmix", "classmix", "copy_paste")
    sets = {
        name: TrainSet(cache, ids, Augmentation.model_validate({} if name == "none" else {name: {"p": 1.0}}), 0)
        for name in names
    }
    taken: dict[str, list[float]] = {name: [] for name in names}
    for number in range(NUM_ROUNDS):
        for name, dataset in sets.items():
            dataset.set_epoch(number)
            taken[name].append(1000 * seconds(lambda d=dataset: [d[n] for n in range(len(ids))]) / len(ids))
    plain = taken.pop("none")
    return {
        name: statistics.median(a - b for a, b in zip(values, plain, strict=True)) for name, values in taken.items()
    }


def memory_mb(cache: Cache, aug: Augmentation) -> dict[str, float]:
    """Of one loader worker, and of eight together, after an epoch: the PSS of the cache's pages, which counts a page
    once however many processes map it, and of the rest; and their RSS of the cache, which counts it in each."""
    ids = [record.image_id for record in cache.index.images]
    row = {"cache_mb": sum(f.stat().st_size for f in cache.folder.glob("*.u8")) / 2**20}
    for count in (1, NUM_WORKERS):
        loader = train_loader(TrainSet(cache, ids, aug, 0), 8, count, 0)
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="This DataLoader will create")
                for _ in loader:
                    pass
            workers = loader._iterator._workers  # type: ignore[union-attr]
            sizes = [mapped_mb(worker.pid, cache.folder) for worker in workers]
            for key in sizes[0]:
                row[f"{key}_{count}_mb"] = sum(size[key] for size in sizes)
        finally:
            stop_workers(loader)
    return row


def mapped_mb(pid: int, folder: Path) -> dict[str, float]:
    """What a process maps, from /proc/PID/smaps: a heading a mapping, then its sizes. `folder` holds the cache."""
    sizes = {"cache_pss": 0, "cache_rss": 0, "rest_pss": 0}
    inside = False
    for line in Path(f"/proc/{pid}/smaps").read_text(encoding="utf-8").splitlines():
        key, *fields = line.split()
        if not key.endswith(":"):
            inside = str(folder) in line
        elif key == "Pss:":
            sizes["cache_pss" if inside else "rest_pss"] += int(fields[0])
        elif key == "Rss:" and inside:
            sizes["cache_rss"] += int(fields[0])
    return {name: size / 1024 for name, size in sizes.items()}


def run() -> dict[str, Any]:
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", module="albumentations")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        index: SegIndex = read(read_card(write_set(root, np.random.default_rng(0))))
        cache = Cache.open(index, root / "cache")
        presets = {}
        for name in PRESETS:
            aug = Augmentation(preset=name, mosaic=None, copy_paste=None)  # type: ignore[arg-type]  # the plain way has none
            presets[name] = rates(aug, cache, skip=("PiecewiseAffine",))
        first = index.images[0].image_id
        operators = operator_times(np.array(cache.image(first)), np.array(cache.label(first)))
        whole = presets["convnext_knet"]
        slow_s = 0.3 / 3 * operators["PiecewiseAffine"]["albumentations_ms"] / 1000  # one of three, with p 0.3
        whole["plain_with_piecewise"] = 1 / (1 / whole["plain"] + slow_s)
        whole["ratio_with_piecewise"] = whole["cache"] / whole["plain_with_piecewise"]
        mixing = mixing_costs(cache)
        memory = memory_mb(cache, Augmentation.model_validate({"preset": "swin_knet"}))
    show(presets, operators, mixing, memory)
    return {"presets": presets, "operators": operators, "mixing_ms": mixing, "memory": memory}


def show(
    presets: dict[str, Any], operators: dict[str, Any], mixing: dict[str, float], memory: dict[str, float]
) -> None:
    print("samples a second a core, 512 x 512 (plain: without piecewise affine)")
    print(
        f"{'preset':<16}{'cache':>8}{'decoding':>10}{'plain':>8}{'in memory':>11}{'cache/plain':>13}{'/in memory':>12}"
    )
    for name, row in presets.items():
        cells = f"{row['cache']:>8.0f}{row['decoding']:>10.0f}{row['plain']:>8.0f}{row['plain_memory']:>11.0f}"
        print(f"{name:<16}{cells}{row['ratio']:>13.1f}{row['ratio_memory']:>12.1f}")
    whole = presets["convnext_knet"]
    print(
        f"convnext_knet with piecewise affine: plain {whole['plain_with_piecewise']:.1f}, "
        f"{whole['ratio_with_piecewise']:.0f} x"
    )
    print(f"\n{'operator, ms':<28}{'ours':>8}{'albumentations':>16}")
    for name, row in operators.items():
        theirs = f"{row['albumentations_ms']:>16.2f}" if "albumentations_ms" in row else ""
        print(f"{name:<28}{row['ms']:>8.2f}{theirs}")
    print("\nmixing, extra ms a sample: " + ", ".join(f"{name} {ms:.2f}" for name, ms in mixing.items()))
    print("memory, MiB: " + ", ".join(f"{name} {mb:.0f}" for name, mb in memory.items()))


if __name__ == "__main__":
    run()
