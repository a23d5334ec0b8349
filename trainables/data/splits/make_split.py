"""Splits the images of an index into train, val and hold-out, and into K folds.

Parts that the card gives are kept (unless they are to be carved again); missing ones are carved from train, stratified
by the classes that images show and by their pixels at once, in whole units: the card's groups, or else clusters of
near-duplicates. Ids keep the order of the index. Notes say which requirements were not met.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trainables.data.cache import Cache
from trainables.data.index import ImageRecord, SegIndex, Split
from trainables.data.label_sources import label_source
from trainables.data.splits.near_duplicates import cluster_names, hash_images
from trainables.data.splits.stratify import stratify

PARTS = ("train", "val", "holdout")
MAX_NAMED = 3  # groups that a note names


@dataclass(frozen=True)
class DecodedFacts:
    """Facts from decoded images beyond the index; both may be missing."""

    pixels: Mapping[str, NDArray[np.int64]] | None = None  # image_id -> (K,); else the annotations' masks are taken
    clusters: Mapping[str, str] | None = None  # image_id -> near-duplicate cluster; counts where the card has no group


def make_split(
    index: SegIndex,
    *,
    seed: int,
    val_share: float = 0.2,
    holdout_share: float = 0.2,
    known: DecodedFacts | None = None,
    carve_again: Sequence[str] = (),
) -> Split:
    """Split the labelled images; equal arguments give equal splits on every machine.

    A share is a part of the images that may be dealt (the train file's, and those of parts to `carve_again`: 'val',
    'holdout'), and counts only where that part is carved. No unit is in two parts that were carved here; a unit that
    a given part also holds stays in train. Where the units are too few, the images are cut into contiguous blocks by
    name, and a note says so.

    Raises ValueError for shares that leave nothing to a part, and for fewer images than parts.
    """
    known = known or DecodedFacts()
    given = {part: () if part in carve_again else index.ids(part) for part in ("val", "holdout")}
    wanted = {"val": val_share, "holdout": holdout_share}
    shares = {part: wanted[part] for part in ("val", "holdout") if not given[part]}
    _check_shares(shares)
    pool = [image for image in index.images if image.role == "train" or image.role in carve_again]
    if len(pool) <= len(shares):
        raise ValueError(
            f"train needs at least {len(shares) + 1} images to carve {' and '.join(shares)} from it, "
            f"got {len(pool)}; add images, or name the missing files in the card"
        )
    units = units_of(index, known.clusters)
    part_of: dict[str, str] = {image.image_id: image.role for image in index.images}
    notes: list[str] = []
    if shares:
        elsewhere = {units[i.image_id] for i in index.images if i.role in given and i.role not in carve_again}
        all_shares = {"train": 1.0 - sum(shares.values()), **shares}
        dealt, notes = _deal(index, pool, all_shares, seed, units, elsewhere, known)
        part_of |= dealt
    ids = {p: tuple(i.image_id for i in index.images if part_of[i.image_id] == p) for p in PARTS}
    notes += straddling(index, part_of, units) + absent_classes(index, part_of, PARTS, known)
    return Split(ids["train"], ids["val"], ids["holdout"], split_fingerprint(index, ids), tuple(notes))


def decode_facts(index: SegIndex, cache: Cache) -> DecodedFacts:
    """Facts of a decoded data set for a split: pixels of each class, and, where the card names no group, clusters."""
    pixels = decode_pixels(index, cache)
    return DecodedFacts(pixels, None if index.grouped else cluster_names(hash_images(list(pixels), cache.image)))


def decode_pixels(index: SegIndex, cache: Cache) -> dict[str, NDArray[np.int64]]:
    """image_id -> its pixels of each class (K,), of all labelled images."""
    labelled = [image.image_id for image in index.images if image.role != "unlabelled"]
    return dict(zip(labelled, cache.class_pixels_by_image(labelled), strict=True))


def make_folds(
    index: SegIndex, split: Split, num_folds: int, *, seed: int, known: DecodedFacts | None = None
) -> tuple[tuple[tuple[str, ...], ...], tuple[str, ...]]:
    """K folds of the images that are not sealed (train and val of `split`), and notes on unmet requirements.

    Each image is in one fold, and no unit is in two: fold f tunes a model that the others train. Raises ValueError
    for fewer than 2 folds or fewer images than folds.
    """
    known = known or DecodedFacts()
    open_ids = {*split.train_ids, *split.val_ids}
    pool = [image for image in index.images if image.image_id in open_ids]
    if not 2 <= num_folds <= len(pool):
        raise ValueError(f"folds must be 2 to {len(pool)}, the number of images outside the hold-out, got {num_folds}")
    names = [f"fold {f}" for f in range(num_folds)]
    units = units_of(index, known.clusters)
    fold_of, notes = _deal(index, pool, dict.fromkeys(names, 1 / num_folds), seed, units, set(), known)
    folds = tuple(tuple(i.image_id for i in pool if fold_of[i.image_id] == name) for name in names)
    return folds, (*notes, *absent_classes(index, fold_of, names, known))


def units_of(index: SegIndex, clusters: Mapping[str, str] | None) -> dict[str, str]:
    """image_id -> what must stay on one side of a split: its group, else its cluster of near-duplicates."""
    if index.grouped or clusters is None:
        return {image.image_id: image.group for image in index.images}
    return {image.image_id: clusters.get(image.image_id, image.image_id) for image in index.images}


def split_fingerprint(index: SegIndex, ids: Mapping[str, Sequence[str]]) -> str:
    content = [index.fingerprint, {part: ids[part] for part in PARTS}]
    return hashlib.blake2b(json.dumps(content).encode(), digest_size=12).hexdigest()


def _check_shares(shares: Mapping[str, float]) -> None:
    for part, share in shares.items():
        if not 0.0 < share < 1.0:
            raise ValueError(f"{part}_share must lie between 0 and 1, got {share}; the default is 0.2")
    if sum(shares.values()) >= 1.0:
        raise ValueError(f"val_share and holdout_share must leave images to train, got {dict(shares)}; lower them")


def _deal(
    index: SegIndex,
    pool: Sequence[ImageRecord],
    shares: Mapping[str, float],
    seed: int,
    units: Mapping[str, str],
    elsewhere: set[str],
    known: DecodedFacts,
) -> tuple[dict[str, str], list[str]]:
    """The part of every image of the pool, and notes on requirements that were not met. Units that a given part also
    holds (`elsewhere`) stay in the first."""
    names = sorted({units[image.image_id] for image in pool} - elsewhere)
    parts = list(shares)
    free = len(parts) if len(names) == len({units[image.image_id] for image in pool}) else len(parts) - 1
    if len(names) < free:  # the first part has images already where a unit had to stay in it
        noun = "group" if index.grouped else "cluster of near-duplicates"
        note = (
            f"there {'is' if len(names) == 1 else 'are'} {_count(len(names), noun)} that may be moved, and "
            f"{free} are needed: the images were cut into {len(parts)} contiguous blocks by name instead, so "
            "neighbours on either side of a cut are in different parts"
        )
        return _blocks(pool, shares), [note]
    holds, fixed = _holdings(index, pool, names, units, known)
    start = np.zeros((len(parts), holds.shape[1]))  # (S,2K+1)
    start[0] = fixed
    target = np.outer(list(shares.values()), holds.sum(axis=0) + fixed)  # (S,2K+1)
    chosen = stratify(holds, start, target, np.random.default_rng(seed))  # (J,)
    sizes = start[:, -1] + np.bincount(chosen, weights=holds[:, -1], minlength=len(parts))  # (S,)
    notes = [
        f"{part} has {size:.0f} images where {want:.0f} were wanted: groups are kept whole"
        for part, size, want in zip(parts, sizes, target[:, -1], strict=True)
        if abs(size - want) > max(1.0, 0.25 * want)
    ]
    part_of_unit = {name: parts[s] for name, s in zip(names, chosen, strict=True)}
    return {image.image_id: part_of_unit.get(units[image.image_id], parts[0]) for image in pool}, notes


def _holdings(
    index: SegIndex, pool: Sequence[ImageRecord], names: Sequence[str], units: Mapping[str, str], known: DecodedFacts
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Of each unit the images that show each class, the pixels of each class, and its images: (J,2K+1); and the same
    sum over the images of units not listed, which stay in the first part: (2K+1,)."""
    row = {name: j for j, name in enumerate(names)}
    holds = np.zeros((len(names), 2 * index.num_classes + 1))
    fixed = np.zeros(2 * index.num_classes + 1)
    for image in pool:
        unit = units[image.image_id]
        counts = holds[row[unit]] if unit in row else fixed
        counts[[*_shown_classes(image, index, known), -1]] += 1
        pixels = label_source(index, image).class_areas() if known.pixels is None else known.pixels[image.image_id]
        counts[index.num_classes : -1] += pixels / (image.height * image.width)  # shares: large images weigh no more
    return holds, fixed


def _shown_classes(image: ImageRecord, index: SegIndex, known: DecodedFacts) -> set[int]:
    """The classes that an image has pixels of, but for the background, which lies under no annotation.

    Without decoded pixels, those whose masks have some, though others may cover them.
    """
    if known.pixels is None:
        return label_source(index, image).shown_classes()
    return set(np.flatnonzero(known.pixels[image.image_id]).tolist()) - ({0} if index.background else set())


def _blocks(pool: Sequence[ImageRecord], shares: Mapping[str, float]) -> dict[str, str]:
    """Contiguous blocks by name, at least one image each; len(pool) >= len(shares)."""
    names = sorted(image.image_id for image in pool)
    ends = np.rint(np.cumsum(list(shares.values())) * len(names)).astype(int)
    for s in range(len(ends)):
        left = len(ends) - 1 - s  # each later part needs an image
        ends[s] = min(max(ends[s], (ends[s - 1] if s else 0) + 1), len(names) - left)
    ends[-1] = len(names)
    bounds = [0, *ends.tolist()]
    return {name: part for s, part in enumerate(shares) for name in names[bounds[s] : bounds[s + 1]]}


def straddling(index: SegIndex, part_of: Mapping[str, str], units: Mapping[str, str]) -> list[str]:
    """A note on the groups, or clusters of near-duplicates, that the same parts share."""
    parts: dict[str, set[str]] = {}
    for image in index.images:
        if part_of.get(image.image_id) in PARTS:
            parts.setdefault(units[image.image_id], set()).add(part_of[image.image_id])
    shared: dict[str, list[str]] = {}
    for unit, found in sorted(parts.items()):
        if len(found) > 1:
            shared.setdefault(" and ".join(part for part in PARTS if part in found), []).append(unit)
    return [f"{_named(shared[where], index.grouped)} in {where}: scores there may flatter" for where in sorted(shared)]


def _named(units: Sequence[str], grouped: bool) -> str:
    """'groups 'a', 'b' are': the first MAX_NAMED of them."""
    names = ", ".join(map(repr, units[:MAX_NAMED]))
    more = f" and {len(units) - MAX_NAMED} more" if len(units) > MAX_NAMED else ""
    if not grouped:
        return f"the near-duplicates of {names}{more} are"
    return f"group {names} is" if len(units) == 1 else f"groups {names}{more} are"


def absent_classes(
    index: SegIndex, part_of: Mapping[str, str], parts: Sequence[str], known: DecodedFacts | None = None
) -> list[str]:
    """A note for every class but the background of which a part has no pixel."""
    images: Counter[tuple[str, int]] = Counter()
    groups: dict[int, set[str]] = {}
    for image in index.images:
        part = part_of.get(image.image_id)
        for k in _shown_classes(image, index, known or DecodedFacts()) if part in parts else ():
            images[str(part), k] += 1
            groups.setdefault(k, set()).add(image.group)
    notes = []
    for k, name in enumerate(index.classes):
        lacks = [part for part in parts if not images[part, k]]
        if lacks and not (k == 0 and index.background):
            found = _count(sum(images[part, k] for part in parts), "image")
            where = f" in {_count(len(groups.get(k, ())), 'group')}" if index.grouped else ""
            notes.append(f"class {name!r} is absent from {' and '.join(lacks)}; shown by {found}{where} in all")
    return notes


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")
