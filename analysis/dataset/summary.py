"""Summarises data set statistics as plain values for the page and its JSON."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analysis.dataset.image_features import FEATURES
from analysis.dataset.statistics import DatasetStatistics
from trainables.data.index import SegIndex
from trainables.data.splits.near_duplicates import cluster

# sides in px: the first users' own thresholds, and COCO's
SIZES = {"theirs": (50, 250), "coco": (32, 96)}
COLOURS = ("brightness", "contrast", "saturation", "colourfulness", "warmth", "sharpness", "noise")
MAX_GROUPS = 40


def class_rows(index: SegIndex, survey: DatasetStatistics) -> list[dict[str, Any]]:
    """Images, annotations, pixels and object sizes of every class."""
    total = max(1, int(survey.class_pixels.sum()))
    rows = []
    for k, name in enumerate(index.classes):
        of = survey.annotation_class == k
        areas = survey.annotation_px[of]
        pixels = int(survey.class_pixels[:, k].sum())
        sizes = {}
        for rule, (small, large) in SIZES.items():
            counts = np.histogram(areas, bins=[0, small**2, large**2, np.inf])[0]
            sizes[rule] = dict(zip(("small", "medium", "large"), counts.tolist(), strict=True))
        rows.append({
            "class": name, "images": int((survey.class_pixels[:, k] > 0).sum()), "annotations": int(of.sum()),
            "pixels": pixels, "share": pixels / total, "median_px": float(np.median(areas)) if len(areas) else None,
            "covered": int((of & (survey.annotation_visible_px == 0) & (survey.annotation_px > 0)).sum()),
            "sizes": sizes,
        })  # fmt: skip
    return rows


def num_without_objects(index: SegIndex, survey: DatasetStatistics) -> int:
    """Labelled images with nothing on their background."""
    per_image = np.bincount(survey.annotation_image, minlength=len(index.images))
    return sum(not n for n, image in zip(per_image, index.images, strict=True) if image.role != "unlabelled")


def together(survey: DatasetStatistics) -> NDArray[np.float64]:
    """(K,K): of the images that show the row's class, the share that shows the column's."""
    shows = (survey.class_pixels > 0).astype(np.float64)  # (N,K)
    both = shows.T @ shows
    share: NDArray[np.float64] = both / np.maximum(np.diag(both), 1)[:, None]
    np.fill_diagonal(share, 0)
    return share


def overlap_rows(index: SegIndex, survey: DatasetStatistics) -> list[dict[str, Any]]:
    names = [*index.classes, "ignored"]
    return [{"classes": [names[a], names[b]], "pairs": count} for (a, b), count in survey.overlaps.most_common(20)]


def copies(index: SegIndex, survey: DatasetStatistics, part_of: Mapping[str, str]) -> dict[str, Any]:
    """Files of equal bytes, and clusters of near-duplicates, the largest first."""
    ids = [image.image_id for image in index.images]
    by_digest: dict[str, list[str]] = defaultdict(list)
    for image_id, digest in zip(ids, survey.digests, strict=True):
        by_digest[digest].append(image_id)
    clusters: dict[int, list[str]] = defaultdict(list)
    for image_id, root in zip(ids, cluster(survey.hashes).tolist(), strict=True):
        clusters[root].append(image_id)
    near = sorted((c for c in clusters.values() if len(c) > 1), key=lambda c: (-len(c), c))
    return {
        "identical": [group for group in by_digest.values() if len(group) > 1],
        "num_near": sum(map(len, near)),
        "num_clusters": len(clusters),
        "clusters": [{"images": c, "parts": dict(Counter(part_of[i] for i in c))} for c in near],
        "across_parts": sum(len({part_of[i] for i in c}) > 1 for c in near),
    }


def shares_by(index: SegIndex, survey: DatasetStatistics, key_of: Mapping[str, str]) -> dict[str, list[float]]:
    """Key (part or group) -> each class's share of its labelled pixels (K,), keys with most images first."""
    sums: dict[str, NDArray[np.int64]] = {}
    images: Counter[str] = Counter()
    for n, image in enumerate(index.images):
        if image.role == "unlabelled":
            continue
        key = key_of[image.image_id]
        images[key] += 1
        sums[key] = sums.get(key, np.zeros(index.num_classes, np.int64)) + survey.class_pixels[n]
    return {key: (sums[key] / max(1, int(sums[key].sum()))).tolist() for key, _ in images.most_common(MAX_GROUPS)}


def colour_rows(index: SegIndex, survey: DatasetStatistics, part_of: Mapping[str, str]) -> list[dict[str, Any]]:
    """Mean and standard deviation over images of what tells the light and the camera, by part."""
    parts = list(dict.fromkeys(part_of.values()))
    member = np.array([parts.index(part_of[image.image_id]) for image in index.images])
    columns: dict[str, NDArray[Any]] = {name: survey.features[:, list(FEATURES).index(name)] for name in COLOURS}
    columns |= {name: survey.rgb[:, c] / 255 for c, name in enumerate(("red", "green", "blue"))}
    return [
        {
            "name": name,
            "parts": {p: [float(v[member == n].mean()), float(v[member == n].std())] for n, p in enumerate(parts)},
        }
        for name, v in columns.items()
    ]


def shape_rows(index: SegIndex) -> list[dict[str, Any]]:
    """The commonest sizes of images."""
    sizes = Counter((image.width, image.height) for image in index.images)
    return [
        {"width": w, "height": h, "aspect": round(w / h, 3), "images": count} for (w, h), count in sizes.most_common(12)
    ]


def summary(index: SegIndex, survey: DatasetStatistics, found: Mapping[str, Any]) -> list[str]:
    """What to know before training, one sentence per finding."""
    said = []
    labelled = [n for n, image in enumerate(index.images) if image.role != "unlabelled"]
    rows = class_rows(index, survey)
    shown = [row for row in rows if row["pixels"]]
    absent = [row["class"] for row in rows if not row["pixels"]]
    if absent:
        said.append(f"no pixel of {', '.join(absent)} anywhere")
    rare = [row for row in shown if row["images"] < max(3, 0.03 * len(labelled))]
    if rare:
        said.append("rare classes: " + ", ".join(f"{row['class']} (in {row['images']} images)" for row in rare))
    if len(shown) > 1:
        first, last = max(shown, key=lambda r: r["pixels"]), min(shown, key=lambda r: r["pixels"])
        said.append(f"{first['class']} has {first['pixels'] / last['pixels']:,.0f} times the pixels of {last['class']}")
    if found["identical"]:
        said.append(f"{sum(map(len, found['identical']))} files are equal to another byte for byte")
    if found["num_near"]:
        said.append(
            f"{found['num_near']} images have near-duplicates: {len(index.images)} images show "
            f"{found['num_clusters']} scenes"
        )
    if found["across_parts"]:
        said.append(
            f"{found['across_parts']} clusters of near-duplicates lie in more than one part: scores there flatter"
        )
    covered = sum(row["covered"] for row in rows)
    if covered:
        said.append(f"{covered} annotations are wholly covered by smaller ones and paint nothing")
    if survey.duplicates:
        said.append(f"{len(survey.duplicates)} pairs of annotations cover the same pixels (IoU above 0.9)")
    said += [f"{rule}: {count}" for rule, count in index.warnings.items()]
    return said
