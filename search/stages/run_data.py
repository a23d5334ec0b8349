"""Reads, checks, decodes and splits a run's data, and describes it for data.json."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from search.space.options import Options
from trainables.data.cache import Cache
from trainables.data.card import read_card
from trainables.data.index import SegIndex, Split
from trainables.data.reader import read
from trainables.data.splits.make_split import DecodedFacts, decode_facts, decode_pixels, make_split
from trainables.data.splits.split_file import read_split

MIN_VAL_IMAGES = 2


@dataclass(frozen=True)
class Data:
    """A data set, read, split and decoded."""

    index: SegIndex
    split: Split
    cache: Cache
    cache_root: Path


def read_data(card: Path, cache_root: Path, say: Callable[[str], None]) -> tuple[SegIndex, Cache]:
    """Read, check and decode a data set. Raises DataProblems with everything that is wrong with it."""
    index = read(read_card(card))
    for rule, count in index.warnings.items():
        say(f"warning: {rule}: {count}")
    return index, Cache.open(index, cache_root)


def split_data(index: SegIndex, cache: Cache, options: Options, say: Callable[[str], None]) -> Split:
    """Train, val and hold-out images: from the split file if the space names one, else made here.

    Reports the split's notes, such as requirements that were not met. Raises ValueError for a wrong split file, and
    for a val too small for what comes after the search.
    """
    if options.split.file is not None:
        try:
            known = DecodedFacts(pixels=decode_pixels(index, cache))
            split = read_split(Path(options.split.file), index, options.split.fold, known=known)
        except ValueError as error:
            raise ValueError(f"split.file: {error}") from error
    else:
        split = make_split(
            index,
            seed=options.seed,
            val_share=options.split.val_share,
            holdout_share=options.split.holdout_share,
            known=decode_facts(index, cache),
        )
    if len(split.val_ids) < MIN_VAL_IMAGES:
        raise ValueError(
            f"val must have at least {MIN_VAL_IMAGES} images, since rules are fitted to one part of it and scored on "
            f"another, got {len(split.val_ids)} ({', '.join(split.val_ids)}); raise split.val_share, or name a larger "
            "val in the card"
        )
    for note in split.notes:
        say(f"split: {note}")
    num_open = len(split.train_ids) + len(split.val_ids)
    if options.folds.num > num_open:
        raise ValueError(
            f"folds.num must not exceed the labelled images outside the hold-out, got {options.folds.num} and "
            f"{num_open}; use 2 to {num_open}, or 0 for none"
        )
    say(
        f"data {index.name}: {index.num_classes} classes, {len(split.train_ids)} images to train on, "
        f"{len(split.val_ids)} to tune on, {len(split.holdout_ids)} sealed until the verdict"
    )
    return split


def describe_data(data: Data, card: Path) -> dict[str, Any]:
    """The content of data.json: what was read and how it was split."""
    return {
        "card": str(card),
        "name": data.index.name,
        "classes": list(data.index.classes),
        "fingerprint": data.index.fingerprint,
        "split_fingerprint": data.split.fingerprint,
        "label_fingerprint": data.cache.label_fingerprint,  # whatever files gave the labels
        "licences": list(data.index.licences),
        "flip_pairs": [list(pair) for pair in data.index.flip_pairs],
        "warnings": dict(data.index.warnings),
        "notes": list(data.split.notes),
        "train": list(data.split.train_ids),
        "val": list(data.split.val_ids),
        "holdout": list(data.split.holdout_ids),
    }


def check_turns(card: Path, options: Options) -> None:
    """Raises ValueError for `tta.turns` with a data card that does not allow them."""
    if set(options.tta.turns) > {0} and not read_card(card).turns:
        asked = ", ".join(str(turn) for turn in options.tta.turns)
        raise ValueError(
            f"tta.turns must be [0] where the data card has no `turns: true`, got [{asked}] with {card}: the models "
            "have not been trained on turned images; remove the turns, or set `turns: true` where scenes have no up"
        )
