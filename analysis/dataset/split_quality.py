"""What a split is like: sizes, scenes, classes, bursts, and how similar its parts are.

The results are plain values for the page and its JSON, and findings as sentences.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainables.data.index import SegIndex, Split
from trainables.data.splits.make_split import PARTS
from trainables.data.splits.near_duplicates import Hashes, are_near, cluster, nearest

FEW_SCENES = 0.34  # scenes per image: below it a part's images mostly repeat each other
UNBROKEN = 0.9  # share of a numbered run in one part, above which the run is a burst: a random split mixes its parts
LEAKY = 0.1  # share of a part's images with a near-duplicate in train


@dataclass(frozen=True)
class PartFacts:
    """One part. A scene is a cluster of near-duplicates."""

    part: str
    num_images: int
    num_groups: int
    groups_in_train: int  # of them, also in train
    num_scenes: int
    near_duplicates_in_train: int  # images with a near-duplicate in train
    median_bits: float | None  # of 128, to the nearest train image


@dataclass(frozen=True)
class Burst:
    """Images of one part whose names differ in a number alone."""

    part: str
    name: str
    num_images: int
    first: int
    last: int
    step: int  # the commonest
    share: float  # of the images of that name from first to last, those of this part
    gap: int | None  # numbers between it and the nearest train image of the same name; None where there is none


@dataclass(frozen=True)
class NearDuplicate:
    """An image and its nearest in train."""

    part: str
    image_id: str
    train_id: str
    bits: int
    near: bool


@dataclass(frozen=True)
class SplitQuality:
    """A split with its folds, and what was found out about it."""

    split: Split
    folds: tuple[tuple[str, ...], ...]  # image ids per fold
    parts: list[PartFacts]
    near_duplicates: list[NearDuplicate]  # of train, nearest first
    bursts: list[Burst]
    findings: list[str]  # what makes scores on a part doubtful, one sentence each


def assess_split(
    index: SegIndex, split: Split, folds: tuple[tuple[str, ...], ...], fold_notes: Sequence[str], hashes: Hashes
) -> SplitQuality:
    """Describe a split; its findings begin with the notes on making the split and the folds."""
    parts, pairs = part_facts(index, split, hashes)
    runs = bursts(parts_of(split))
    found = [*split.notes, *fold_notes, *findings(parts, runs, pairs, index.grouped)]
    return SplitQuality(split, folds, parts, pairs, runs, found)


def parts_of(split: Split) -> dict[str, tuple[str, ...]]:
    return dict(zip(PARTS, (split.train_ids, split.val_ids, split.holdout_ids), strict=True))


def part_facts(index: SegIndex, split: Split, hashes: Hashes) -> tuple[list[PartFacts], list[NearDuplicate]]:
    """A row per part, and for every image of val and hold-out its nearest in train, nearest first."""
    row_of = {image_id: n for n, image_id in enumerate(hashes.image_ids)}
    records, scenes = index.by_id(), cluster(hashes)
    rows = {part: np.array([row_of[i] for i in ids], np.intp) for part, ids in parts_of(split).items()}
    in_train = {records[i].group for i in split.train_ids}
    train = hashes.take(rows["train"])
    facts, pairs = [], []
    for part, ids in parts_of(split).items():
        groups = {records[i].group for i in ids}
        found: list[NearDuplicate] = []
        if part != "train":
            own = hashes.take(rows[part])
            for n, (m, bits) in enumerate(zip(*nearest(own, train), strict=True)):
                found.append(
                    NearDuplicate(part, ids[n], train.image_ids[m], int(bits), are_near(own, n, train, int(m)))
                )
        facts.append(PartFacts(
            part, len(ids), len(groups), len(groups & in_train) if part != "train" else 0, len(set(scenes[rows[part]])),
            sum(pair.near for pair in found), float(np.median([t.bits for t in found])) if found else None,
        ))  # fmt: skip
        pairs += found
    return facts, sorted(pairs, key=lambda pair: (not pair.near, pair.bits))


def class_table(
    index: SegIndex, parts: Mapping[str, Sequence[str]], pixels: Mapping[str, NDArray[np.int64]]
) -> list[dict[str, Any]]:
    """For each class and part the images that show it and its share of the part's labelled pixels."""
    rows: list[dict[str, Any]] = [{"class": name, "images": {}, "share": {}} for name in index.classes]
    for part, ids in parts.items():
        counts = np.array([pixels[i] for i in ids], np.int64).reshape(-1, index.num_classes)  # (n,K)
        total = max(1, int(counts.sum()))
        for k, row in enumerate(rows):
            row["images"][part] = int((counts[:, k] > 0).sum())
            row["share"][part] = float(counts[:, k].sum() / total)
    return rows


def bursts(parts: Mapping[str, Sequence[str]]) -> list[Burst]:
    """Numbered runs of 5 images and more in each part, the largest first."""
    runs: dict[tuple[str, str], list[int]] = defaultdict(list)
    for part, ids in parts.items():
        for image_id in ids:
            name, number = _numbered(image_id)
            if number is not None:
                runs[part, name].append(number)
    found = []
    for (part, name), numbers in runs.items():
        numbers.sort()
        if len(numbers) < 5:
            continue
        steps = np.diff(numbers)
        near = [abs(n - m) for m in runs.get(("train", name), []) for n in (numbers[0], numbers[-1])]
        inside = any(numbers[0] < m < numbers[-1] for m in runs.get(("train", name), []))
        gap = None if part == "train" or not near else 0 if inside else int(min(near))
        step = int(np.bincount(steps.clip(0, 10**6)).argmax())
        between = sum(numbers[0] <= m <= numbers[-1] for other in parts for m in runs.get((other, name), []))
        share = len(numbers) / between
        found.append(Burst(part, name, len(numbers), numbers[0], numbers[-1], step, share, gap))
    return sorted(found, key=lambda burst: (PARTS.index(burst.part), -burst.num_images))


def findings(
    facts: Sequence[PartFacts], runs: Sequence[Burst], pairs: Sequence[NearDuplicate], grouped: bool
) -> list[str]:
    """What makes scores on a part doubtful, one sentence each."""
    said = []
    for one in facts:
        if one.part == "train":
            continue
        scenes = f"{one.num_scenes} scene{'' if one.num_scenes == 1 else 's'}"
        if one.num_scenes < max(2.0, FEW_SCENES * one.num_images) and one.num_images > 2:
            said.append(
                f"{one.part} shows {scenes} in {one.num_images} images: its images repeat each other, and a score on "
                f"them says as much as one on {scenes}"
            )
        copies = one.near_duplicates_in_train
        if copies > LEAKY * one.num_images:
            said.append(f"{copies} of {one.num_images} images of {one.part} have a near-duplicate in train")
        if grouped and one.groups_in_train == one.num_groups:
            said.append(f"every group of {one.part} is in train too: {one.part} shows a model no new scene")
    for run in runs:
        near_train = run.part != "train" and run.gap is not None and run.step < 30
        if near_train and run.share >= UNBROKEN and run.num_images >= 20:
            said.append(
                f"{run.num_images} images of {run.part} are one burst, {run.name} number {run.first} to {run.last} in "
                f"steps of {run.step}; the nearest train image is {run.gap} away" + _nearest_pair(run, pairs)
            )
    return said


def as_json(rows: Sequence[Any]) -> list[dict[str, Any]]:
    return [asdict(row) for row in rows]


def _nearest_pair(run: Burst, pairs: Sequence[NearDuplicate]) -> str:
    found = next((t for t in pairs if t.part == run.part and _numbered(t.image_id)[0] == run.name), None)
    return f" (most alike: {found.image_id} and {found.train_id})" if found else ""


def _numbered(image_id: str) -> tuple[str, int | None]:
    """'images/val/0016E5_07959.jpg' -> ('0016E5_', 7959): folders say which part it was, not what it shows."""
    match = re.search(r"([^/]*?)(\d{1,12})\D*$", image_id)
    folder = image_id.rsplit("/", 2)[-2] + "/" if match and not match.group(1) and "/" in image_id else ""
    return (folder + match.group(1), int(match.group(2))) if match else (image_id, None)
