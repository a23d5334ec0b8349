"""Compares val, train and the folds with the test images, by adversarial validation.

Only pixels are read: the labels of a sealed hold-out stay sealed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analysis.dataset.adversarial_validation import MIN_IMAGES, Auc, Comparison, compare, subsample
from analysis.dataset.image_features import FEATURES, NetworkFeatures, Read, measure, pooled_features

FAMILIES = ("colour", "light", "texture", "shape")


@dataclass(frozen=True)
class DistributionShift:
    """`target` is compared with each candidate; `main` is the whole comparison with the first."""

    target: str  # 'unlabelled' or 'holdout'
    network: str
    candidate_ids: tuple[str, ...]  # of the main comparison, in the order of its scores
    target_ids: tuple[str, ...]
    main_name: str
    main: Comparison
    aucs: Mapping[str, Auc]  # candidate -> AUC
    skipped: Mapping[str, str]  # candidate -> why

    @property
    def most_alike(self) -> str:
        """Of what could serve as validation: val and the folds."""
        tried = [name for name in self.aucs if name != "train"]
        return min(tried, key=lambda name: max(0.5, self.aucs[name].value))

    def as_json(self) -> dict[str, Any]:
        features = {
            name: {**asdict(auc), "median": a, "median_target": b} for name, (auc, a, b) in self.main.features.items()
        }
        return {
            "target": self.target,
            "network": self.network,
            "compared": self.main_name,
            "auc": asdict(self.main.auc),
            "families": {name: asdict(auc) for name, auc in self.main.families.items()},
            "features": features,
            "candidates": {name: asdict(auc) for name, auc in self.aucs.items()},
            "skipped": dict(self.skipped),
            "most_alike": self.most_alike,
            "caveat": self.main.caveat,
        }


def compare_sets(
    candidates: Mapping[str, Sequence[str]],  # name -> image ids; the first is compared in full
    target: str,
    target_ids: Sequence[str],
    read: Read,
    units: Mapping[str, str],  # image_id -> cluster of near-duplicates
    *,
    seed: int,
    backbone: str,
) -> DistributionShift:
    """Raises ValueError where val or the test set has fewer than 8 images, or the backbone is unknown."""
    rng = np.random.default_rng(seed)
    sets = {name: subsample(ids, rng) for name, ids in candidates.items()}
    tested = subsample(target_ids, rng)
    everything = list(dict.fromkeys([i for ids in sets.values() for i in ids] + tested))
    row = {image_id: n for n, image_id in enumerate(everything)}
    named, network = measure(everything, read), pooled_features(everything, read, seed=seed, backbone=backbone)
    first = next(iter(sets))
    target_rows = np.array([row[i] for i in tested])
    results: dict[str, Comparison] = {}
    skipped: dict[str, str] = {}
    for name, ids in sets.items():
        if name != first and len(ids) < MIN_IMAGES:
            skipped[name] = f"{len(ids)} images, fewer than {MIN_IMAGES}"
            continue
        rows = np.array([row[i] for i in ids])
        together = [units.get(i, i) for i in (*ids, *tested)]
        results[name] = _compare(named, network, rows, target_rows, together, seed, whole=name == first)
    aucs = {name: result.auc for name, result in results.items()}
    main = results[first]
    return DistributionShift(target, network.source, tuple(sets[first]), tuple(tested), first, main, aucs, skipped)


def sentence(shift: DistributionShift) -> str:
    """One sentence on how far the candidate differs from the test images."""
    auc, name = shift.main.auc, shift.main_name
    tests = "the unlabelled images" if shift.target == "unlabelled" else "the hold-out's images"
    interval = f"AUC {auc.value:.2f}, 95% {auc.low:.2f} to {auc.high:.2f}"
    if auc.holds_half:
        return f"{name} cannot be distinguished from {tests} ({interval})"
    if auc.value < 0.5:
        return f"no difference between {name} and {tests} that a classifier could use ({interval})"
    best = max(shift.main.features, key=lambda f: abs(shift.main.features[f][0].value - 0.5))
    degree = (
        "does not look like" if auc.value >= 0.9 else "differs from" if auc.value >= 0.7 else "differs slightly from"
    )
    return f"{name} {degree} {tests} ({interval}); the clearest difference is {best}"


def _compare(
    named: NDArray[np.float32],
    network: NetworkFeatures,
    a: NDArray[np.intp],
    b: NDArray[np.intp],
    units: Sequence[str],
    seed: int,
    *,
    whole: bool,
) -> Comparison:
    columns = list(FEATURES)
    families = {
        name: [f for f, feature in enumerate(columns) if FEATURES[feature] == name] for name in FAMILIES
    } if whole else {"named": list(range(len(columns)))}  # fmt: skip
    blocks = {name: (named[a][:, fs], named[b][:, fs]) for name, fs in families.items()}
    blocks["network"] = (network.values[a], network.values[b])
    each = {name: (named[a, f], named[b, f]) for f, name in enumerate(columns)} if whole else {}
    return compare(blocks, each, units, seed=seed, judge_families=whole)
