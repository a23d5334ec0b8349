"""From an index to the images that train, that are tuned on, and that stay sealed.

Enters: a `SegIndex`. Leaves: a `Split` of image ids in the order of the index, with notes on what could not be had.
Parts that the card gives are kept; missing ones are carved from train, stratified by which classes an image shows
(iterative stratification: Sechidis, Tsoumakas & Vlahavas 2011, algorithm 1, over groups in place of examples).
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from trainables.data.index import ImageRecord, SegIndex, Split

PARTS = ("train", "val", "holdout")
MAX_SWEEPS = 5


def make_split(index: SegIndex, *, seed: int, val_share: float = 0.2, holdout_share: float = 0.2) -> Split:
    """Split the labelled images; equal arguments give equal splits on every machine.

    A share is a part of the images of the train file, and counts only where that part is carved. No group is
    in two parts that were carved here; a group that a given part also holds stays in train. Where the groups
    are too few, the train file's images are cut into contiguous blocks by name, and a note says so.

    Raises ValueError for shares that leave nothing to a part, and for a train file with fewer images than parts.
    """
    given = {part: index.ids(part) for part in ("val", "holdout")}
    wanted = {"val": val_share, "holdout": holdout_share}
    shares = {part: wanted[part] for part in ("val", "holdout") if not given[part]}
    _check_shares(shares)
    pool = [image for image in index.images if image.role == "train"]
    if len(pool) <= len(shares):
        raise ValueError(
            f"train needs at least {len(shares) + 1} images to carve {' and '.join(shares)} from it, "
            f"got {len(pool)}; add images, or name the missing files in the card"
        )
    part_of: dict[str, str] = {image.image_id: image.role for image in index.images}
    notes: list[str] = []
    if shares:
        part_of |= _carve(index, pool, {"train": 1.0 - sum(shares.values()), **shares}, seed, notes)
    ids = {p: tuple(i.image_id for i in index.images if part_of[i.image_id] == p) for p in PARTS}
    notes += _straddling(index, part_of) + _absent_classes(index, part_of)
    digest = hashlib.blake2b(json.dumps([index.fingerprint, ids]).encode(), digest_size=12).hexdigest()
    return Split(ids["train"], ids["val"], ids["holdout"], digest, tuple(notes))


def _check_shares(shares: Mapping[str, float]) -> None:
    for part, share in shares.items():
        if not 0.0 < share < 1.0:
            raise ValueError(f"{part}_share must lie between 0 and 1, got {share}; the default is 0.2")
    if sum(shares.values()) >= 1.0:
        raise ValueError(f"val_share and holdout_share must leave images to train, got {dict(shares)}; lower them")


def _carve(
    index: SegIndex, pool: Sequence[ImageRecord], shares: Mapping[str, float], seed: int, notes: list[str]
) -> dict[str, str]:
    """The part of every image of the pool; `shares` has train and the parts to carve."""
    elsewhere = {image.group for image in index.images if image.role in ("val", "holdout")}
    groups = sorted({image.group for image in pool} - elsewhere)
    parts = list(shares)
    free = len(parts) if len(groups) == len({image.group for image in pool}) else len(parts) - 1
    if len(groups) < free:  # train has images already where a group had to stay in it
        notes.append(
            f"the train file has {_count(len(groups), 'group')} that may be moved, and "
            f"{free} are needed: its images were cut into {len(parts)} contiguous blocks by name instead, so "
            "neighbours on either side of a cut are in different parts"
        )
        return _blocks(pool, shares)
    present, fixed = _presence(index, pool, groups)
    start = np.zeros((len(parts), index.num_classes + 1))  # (S,K+1)
    start[0] = fixed
    target = np.outer(list(shares.values()), present.sum(axis=0) + fixed)  # (S,K+1)
    chosen = _stratify(present, start, target, np.random.default_rng(seed))  # (J,)
    sizes = start[:, -1] + np.bincount(chosen, weights=present[:, -1], minlength=len(parts))  # (S,)
    for part, size, want in zip(parts, sizes, target[:, -1], strict=True):
        if abs(size - want) > max(1.0, 0.25 * want):
            notes.append(f"{part} has {size:.0f} images where {want:.0f} were wanted: groups are kept whole")
    part_of_group = {group: parts[s] for group, s in zip(groups, chosen, strict=True)}
    return {image.image_id: part_of_group.get(image.group, "train") for image in pool}


def _presence(
    index: SegIndex, pool: Sequence[ImageRecord], groups: Sequence[str]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Images of each group that show each class, and in the last column all of them: (J,K+1); and the same sum
    over the images of groups not listed, which must stay in train: (K+1,)."""
    row = {group: j for j, group in enumerate(groups)}
    present = np.zeros((len(groups), index.num_classes + 1))
    fixed = np.zeros(index.num_classes + 1)
    for image in pool:
        counts = present[row[image.group]] if image.group in row else fixed
        counts[[*_classes_of(image, index), -1]] += 1
    return present, fixed


def _classes_of(image: ImageRecord, index: SegIndex) -> set[int]:
    return {a.class_index for a in image.annotations if a.class_index != index.ignore_index}


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


def _stratify(
    present: NDArray[np.float64],
    start: NDArray[np.float64],
    target: NDArray[np.float64],
    rng: np.random.Generator,
) -> NDArray[np.intp]:
    """A part for every group: (J,). `present` (J,K+1), `start` and `target` (S,K+1); the last column is images.

    The rarest class that is left goes first, and its groups, largest first, each to the part that still lacks
    most of it; then single moves lower the deviation that is left, since groups differ in size.
    """
    chosen = np.full(len(present), -1, dtype=np.intp)
    lacking = target - start  # (S,K+1)
    while (chosen < 0).any():
        left = present[chosen < 0].sum(axis=0)[:-1]  # (K,)
        rarest = int(np.argmin(np.where(left > 0, left, np.inf))) if (left > 0).any() else -1
        members = np.flatnonzero((chosen < 0) & (present[:, rarest] > 0))
        for j in members[np.lexsort((rng.random(len(members)), -present[members, rarest]))]:
            order = np.lexsort((rng.random(len(lacking)), -lacking[:, -1], -lacking[:, rarest]))
            chosen[j] = order[0]
            lacking[order[0]] -= present[j]
    _fill_empty_parts(chosen, present, start)
    _refine(chosen, present, start, target, rng)
    return chosen


def _fill_empty_parts(chosen: NDArray[np.intp], present: NDArray[np.float64], start: NDArray[np.float64]) -> None:
    """Give an empty part the smallest group of the part that has most groups."""
    for s in range(len(start)):
        if start[s, -1] == 0 and not (chosen == s).any():
            donor = int(np.bincount(chosen, minlength=len(start)).argmax())
            members = np.flatnonzero(chosen == donor)
            chosen[members[np.argmin(present[members, -1])]] = s


def _deviation(sums: NDArray[np.float64], target: NDArray[np.float64]) -> float:
    """How far the parts' counts (S,K+1) are from the wanted ones: squared, as shares of each class, plus a
    penalty where a part lacks a class at all."""
    total = np.maximum(target.sum(axis=0), 1e-12)  # (K+1,)
    weight = np.ones(len(total))
    weight[-1] = len(total)  # the size of a part matters as much as all its classes together
    lacks = (sums == 0) & (target > 0)
    return float((weight * ((sums - target) / total) ** 2).sum() + 0.1 * lacks.sum() + lacks[0].sum())


def _refine(
    chosen: NDArray[np.intp],
    present: NDArray[np.float64],
    start: NDArray[np.float64],
    target: NDArray[np.float64],
    rng: np.random.Generator,
) -> None:
    """Move single groups while that lowers the deviation; changes `chosen`."""
    sums = start.copy()
    np.add.at(sums, chosen, present)
    cost = _deviation(sums, target)
    for _ in range(MAX_SWEEPS):
        before = cost
        for j in rng.permutation(len(chosen)):
            source = chosen[j]
            if sums[source, -1] == present[j, -1]:
                continue  # the part would be empty
            for s in range(len(sums)):
                moved = sums.copy()
                moved[source] -= present[j]
                moved[s] += present[j]
                if s != source and (trial := _deviation(moved, target)) < cost - 1e-12:
                    sums, cost, chosen[j], source = moved, trial, s, s
                    break
        if cost >= before - 1e-12:
            return


def _straddling(index: SegIndex, part_of: Mapping[str, str]) -> list[str]:
    if not index.grouped:
        return []
    parts: dict[str, set[str]] = {}
    for image in index.images:
        if part_of[image.image_id] in PARTS:
            parts.setdefault(image.group, set()).add(part_of[image.image_id])
    return [
        f"group {group!r} is in {' and '.join(p for p in PARTS if p in found)}: scores there may flatter"
        for group, found in sorted(parts.items())
        if len(found) > 1
    ]


def _absent_classes(index: SegIndex, part_of: Mapping[str, str]) -> list[str]:
    """A note for every class that annotations show somewhere, or should, and that a part lacks."""
    images: Counter[tuple[str, int]] = Counter()
    groups: dict[int, set[str]] = {}
    for image in index.images:
        for k in _classes_of(image, index):
            images[part_of[image.image_id], k] += 1
            groups.setdefault(k, set()).add(image.group)
    notes = []
    for k, name in enumerate(index.classes):
        lacks = [part for part in PARTS if not images[part, k]]
        is_background = k == 0 and k not in groups  # its pixels are under no annotation
        if lacks and not is_background:
            found = _count(sum(images[part, k] for part in PARTS), "image")
            where = f" in {_count(len(groups.get(k, ())), 'group')}" if index.grouped else ""
            notes.append(f"class {name!r} is absent from {' and '.join(lacks)}; shown by {found}{where} in all")
    return notes


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")
