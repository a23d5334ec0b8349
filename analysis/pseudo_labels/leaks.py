"""Refuses pseudo labels that would carry the hold-out, val or training labels back into training.

An unlabelled image that is one of the labelled ones, or nearly, would let a student be judged on what it trained on.
Same pixels are told by their hash, near-duplicates by `near_duplicates`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from trainables.data.splits.near_duplicates import MAX_BITS, MIN_CORRELATION, Hashes, hash_images

Read = Callable[[str], NDArray[np.uint8]]
MAX_NAMED = 10


def check_unlabelled(unlabelled: Sequence[str], labelled: Mapping[str, Sequence[str]], read: Read) -> None:
    """`labelled` maps a part (train, val, hold-out) to its image ids; `read` gives pixels (H,W,3), such as
    `cache.image`. Raises ValueError that names every unlabelled image found among them."""
    part_of = {image_id: part for part, ids in labelled.items() for image_id in ids}
    known = list(part_of)
    by_pixels = {digest(read(image_id)): image_id for image_id in known}
    same = {image_id: by_pixels[mark] for image_id in unlabelled if (mark := digest(read(image_id))) in by_pixels}
    rest = [image_id for image_id in unlabelled if image_id not in same]
    near = near_pairs(hash_images(rest, read), hash_images(known, read))
    found = [f"'{a}' is '{b}' ({part_of[b]})" for a, b in same.items()]
    found += [f"'{a}' is nearly '{b}' ({part_of[b]})" for a, b in near.items()]
    if found:
        listed = ", ".join(found[:MAX_NAMED]) + (", ..." if len(found) > MAX_NAMED else "")
        raise ValueError(
            f"unlabelled images must be none of train, val or hold-out, got {len(found)} of {len(unlabelled)} that "
            f"are: {listed}; take them out of the card's `unlabelled`"
        )


def check_teacher(train_ids: Collection[str], holdout_ids: Collection[str], teacher: str) -> None:
    """Raises ValueError where a teacher was trained on an image of the hold-out."""
    seen = sorted(set(train_ids) & set(holdout_ids))
    if seen:
        raise ValueError(
            f"a teacher must not have seen the hold-out, got {teacher}, which was trained on {len(seen)} of its images "
            f"({', '.join(seen[:3])}{', ...' if len(seen) > 3 else ''}); take another teacher, or another split"
        )


def digest(pixels: NDArray[np.uint8]) -> str:
    """Of an image's pixels and size, whatever file they lie in."""
    return hashlib.sha256(repr(pixels.shape).encode() + np.ascontiguousarray(pixels).tobytes()).hexdigest()


def near_pairs(of: Hashes, among: Hashes) -> dict[str, str]:
    """image_id -> its first near-duplicate in another set, of those that have one."""
    found = {}
    for row, image_id in enumerate(of.image_ids):
        cosine = np.bitwise_count(among.cosine ^ of.cosine[row])
        gradient = np.bitwise_count(among.gradient ^ of.gradient[row])
        close = np.flatnonzero((cosine <= MAX_BITS) & (gradient <= MAX_BITS))
        alike = close[among.thumbs[close] @ of.thumbs[row] >= MIN_CORRELATION]
        if alike.size:
            found[image_id] = among.image_ids[int(alike[0])]
    return found
