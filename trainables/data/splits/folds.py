"""The folds of a run: every labelled image outside the hold-out in one of them, written to folds.json."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from trainables.data.index import SegIndex, Split
from trainables.data.splits.make_split import DecodedFacts, make_folds, split_fingerprint, units_of
from trainables.files import write_text
from trainables.recipe.config import Config

FORMAT: Literal["segsearch-folds/1"] = "segsearch-folds/1"


class Folds(Config):
    """folds.json. A model of fold f trains on all other folds, so that it never saw an image of fold f."""

    format: Literal["segsearch-folds/1"]
    data_fingerprint: str
    split_fingerprint: str  # of the run's split: its train and val are dealt, its hold-out stays sealed
    seed: int
    wanted: int  # as asked; fewer where there are fewer groups
    fingerprint: str  # of the data and the folds
    notes: tuple[str, ...]  # requirements that were not met
    folds: tuple[tuple[str, ...], ...]  # image_ids, in the order of the index

    @property
    def num(self) -> int:
        return len(self.folds)

    @property
    def num_images(self) -> int:
        return sum(map(len, self.folds))

    def split_of(self, fold: int | None, index: SegIndex, split: Split) -> Split:
        """What a model of this fold trains on (`train`) and what it predicts (`val`); None: of all folds."""
        others = {image_id for f, ids in enumerate(self.folds) if f != fold for image_id in ids}
        train = tuple(image.image_id for image in index.images if image.image_id in others)
        ids = {"train": train, "val": () if fold is None else self.folds[fold], "holdout": split.holdout_ids}
        return Split(ids["train"], ids["val"], ids["holdout"], split_fingerprint(index, ids))


def deal_folds(index: SegIndex, split: Split, num: int, *, seed: int, known: DecodedFacts | None = None) -> Folds:
    """`make_folds`; where there are fewer groups (or clusters of near-duplicates) than folds, one group per fold.

    Raises ValueError for fewer than 2 folds or fewer images than folds.
    """
    units = units_of(index, known.clusters if known else None)
    num_units = len({units[image_id] for image_id in (*split.train_ids, *split.val_ids)})
    taken = num if num_units < 2 else min(num, num_units)  # one group alone is cut, and a note says so
    folds, notes = make_folds(index, split, taken, seed=seed, known=known)
    if taken < num:
        noun = "groups" if index.grouped else "clusters of near-duplicates"
        notes = (f"there are {num_units} {noun} and {num} folds were wanted: each is a fold of its own", *notes)
    return Folds(
        format=FORMAT,
        data_fingerprint=index.fingerprint,
        split_fingerprint=split.fingerprint,
        seed=seed,
        wanted=num,
        fingerprint=folds_fingerprint(index.fingerprint, folds),
        notes=notes,
        folds=folds,
    )


def folds_fingerprint(data_fingerprint: str, folds: Sequence[Sequence[str]]) -> str:
    content = json.dumps([data_fingerprint, folds])
    return hashlib.blake2b(content.encode(), digest_size=12).hexdigest()


def write_folds(path: Path, folds: Folds) -> None:
    """Write folds.json, whole or not at all."""
    write_text(path, json.dumps(folds.model_dump(), indent=1, ensure_ascii=False) + "\n")


def read_folds(path: Path, split: Split) -> Folds:
    """Read what `write_folds` wrote. Raises ValueError for a broken or edited file, or one of another split."""
    remedy = "restore it, or delete it with the folder of the fold models to train them anew"
    try:
        folds = Folds.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        where = "/".join(map(str, first["loc"])) or "the whole"
        raise ValueError(f"{path} must have the format {FORMAT}, got {where}: {first['msg']}; {remedy}") from None
    found = folds_fingerprint(folds.data_fingerprint, folds.folds)
    dealt = sorted(image_id for ids in folds.folds for image_id in ids)
    if found != folds.fingerprint or folds.split_fingerprint != split.fingerprint:
        raise ValueError(
            f"{path} must be of this run's split {split.fingerprint} and unchanged, got split "
            f"{folds.split_fingerprint}, fingerprint {folds.fingerprint} and content {found}; {remedy}"
        )
    assert dealt == sorted((*split.train_ids, *split.val_ids)), "an unchanged file deals every image once"
    return folds
