"""Folds of a run: whole groups, every image once, one file that cannot be changed unnoticed."""

from __future__ import annotations

from pathlib import Path

import pytest

from trainables.data.index import ImageRecord, SegIndex, Split
from trainables.data.splits.folds import Folds, deal_folds, read_folds, write_folds
from trainables.data.splits.make_split import DecodedFacts


def data(groups: str, *, grouped: bool = True, num_holdout: int = 2) -> tuple[SegIndex, Split]:
    """One image per letter, of that group; the last ones are the hold-out."""
    names = [f"{n:02d}.png" for n in range(len(groups))]
    records = tuple(
        ImageRecord(name, Path(name), 8, 8, group if grouped else name, "train")
        for name, group in zip(names, groups, strict=True)
    )
    last = len(names) - num_holdout
    split = Split(tuple(names[: last - 2]), tuple(names[last - 2 : last]), tuple(names[last:]), "split")
    return SegIndex("tiny", records, ("a", "b"), "data", grouped=grouped), split


def groups_of(folds: Folds, groups: str) -> list[str]:
    return ["".join(sorted({groups[int(name[:2])] for name in fold})) for fold in folds.folds]


def test_every_image_outside_the_hold_out_is_in_one_fold_and_no_group_in_two() -> None:
    groups = "aabbccddeeffgghh"
    index, split = data(groups)
    folds = deal_folds(index, split, 3, seed=0)
    assert sorted(name for fold in folds.folds for name in fold) == sorted((*split.train_ids, *split.val_ids))
    assert sorted("".join(groups_of(folds, groups))) == list("abcdefg")
    assert folds == deal_folds(index, split, 3, seed=0)


def test_with_fewer_groups_than_folds_each_group_is_a_fold() -> None:
    groups = "aaabbbbcchh"
    folds = deal_folds(*data(groups), 5, seed=0)
    assert sorted(groups_of(folds, groups)) == ["a", "b", "c"]
    assert (folds.num, folds.wanted) == (3, 5)
    assert folds.notes[0] == "there are 3 groups and 5 folds were wanted: each is a fold of its own"


def test_near_duplicates_stay_together() -> None:
    index, split = data("abcdefghij", grouped=False)
    clusters = dict.fromkeys(["00.png", "03.png", "06.png"], "shot")
    folds = deal_folds(index, split, 2, seed=0, known=DecodedFacts(clusters=clusters))
    assert sum(bool(clusters.keys() & set(fold)) for fold in folds.folds) == 1


def test_a_fold_is_predicted_by_the_others() -> None:
    index, split = data("aabbccddeeffgghh")
    folds = deal_folds(index, split, 3, seed=0)
    parts = [folds.split_of(fold, index, split) for fold in range(3)]
    for part in parts:
        assert not {*part.train_ids} & {*part.val_ids}
        assert len(part.train_ids) + len(part.val_ids) == folds.num_images == 14
        assert part.holdout_ids == split.holdout_ids
        assert list(part.train_ids) == sorted(part.train_ids)
    assert len({part.fingerprint for part in parts}) == 3


def test_the_file_is_read_back_and_a_changed_one_refused(tmp_path: Path) -> None:
    index, split = data("aabbccddeeffgghh")
    folds = deal_folds(index, split, 3, seed=0)
    path = tmp_path / "folds.json"
    write_folds(path, folds)
    assert read_folds(path, split) == folds
    text = path.read_text()
    first, other = folds.folds[0][0], folds.folds[1][0]
    path.write_text(text.replace(first, "x").replace(other, first).replace('"x"', f'"{other}"'))
    with pytest.raises(ValueError, match=r"folds\.json must be of this run's split split and unchanged.*restore it"):
        read_folds(path, split)
    path.write_text(text[:200])
    with pytest.raises(ValueError, match=r"must have the format segsearch-folds/1.*restore it"):
        read_folds(path, split)
