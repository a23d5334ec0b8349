"""The checks of a run's split for its report: parts, near-duplicates, and drift between val and the hold-out.

Of the hold-out, pixels and sums of labels are read. No network is asked: `segsearch split` compares with one too.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from analysis.dataset.adversarial_validation import MIN_IMAGES, Auc, compare, subsample
from analysis.dataset.image_features import FEATURES, measure
from analysis.dataset.split_quality import bursts as bursts_of
from analysis.dataset.split_quality import class_table, findings, part_facts, parts_of
from analysis.report.data_checks import PartRow, SplitChecks
from trainables.data.cache import Cache
from trainables.data.index import Split
from trainables.data.splits.make_split import decode_pixels
from trainables.data.splits.near_duplicates import cluster_names, hash_images


def check_split(cache: Cache, split: Split, *, seed: int) -> SplitChecks:
    """Describe a split as it was made."""
    index, parts = cache.index, parts_of(split)
    hashes = hash_images([image_id for ids in parts.values() for image_id in ids], cache.image)
    facts, pairs = part_facts(index, split, hashes)
    table = class_table(index, parts, decode_pixels(index, cache))
    rows = [
        PartRow(
            part=one.part,
            images=one.num_images,
            groups=one.num_groups if index.grouped else None,
            scenes=one.num_scenes,
            near_duplicates_in_train=None if one.part == "train" else one.near_duplicates_in_train,
            shares=[row["share"][one.part] for row in table],
        )
        for one in facts
    ]
    found = findings(facts, bursts_of(parts), pairs, index.grouped)
    scenes = cluster_names(hashes)
    return SplitChecks(rows, found, drift(cache, split.val_ids, split.holdout_ids, scenes, seed=seed))


def drift(
    cache: Cache, val_ids: Sequence[str], holdout_ids: Sequence[str], scenes: dict[str, str], *, seed: int
) -> str:
    """Whether a classifier distinguishes val from the hold-out by colour, light, texture and shape, as a sentence."""
    if min(len(val_ids), len(holdout_ids)) < MIN_IMAGES:
        return f"drift needs {MIN_IMAGES} images of val and of the hold-out, got {len(val_ids)} and {len(holdout_ids)}"
    rng = np.random.default_rng(seed)
    a, b = subsample(val_ids, rng), subsample(holdout_ids, rng)
    of_a, of_b = measure(a, cache.image), measure(b, cache.image)
    each = {name: (of_a[:, f], of_b[:, f]) for f, name in enumerate(FEATURES)}
    units = [scenes.get(image_id, image_id) for image_id in (*a, *b)]
    found = compare({"named": (of_a, of_b)}, each, units, seed=seed, judge_families=False)
    clearest = max(found.features, key=lambda name: abs(found.features[name][0].value - 0.5))
    return _sentence(found.auc, clearest) + (f" ({found.caveat})" if found.caveat else "")


def _sentence(auc: Auc, clearest: str) -> str:
    interval = f"AUC {auc.value:.2f}, 95% {auc.low:.2f} to {auc.high:.2f}"
    if auc.holds_half or auc.value < 0.5:
        return f"val cannot be distinguished from the hold-out by colour, light, texture and shape ({interval})"
    return f"val differs from the hold-out ({interval}); the clearest difference is {clearest}"
