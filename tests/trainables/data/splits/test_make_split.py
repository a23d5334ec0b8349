"""Splits: what is given is kept, what is carved is stratified, grouped, seeded, and honest about what it lacks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from trainables.data.index import Annotation, ImageRecord, Role, SegIndex, Split
from trainables.data.splits.make_split import DecodedFacts, make_split, straddling

CLASSES = ("Background", "common", "rare", "scarce")


def image(n: int, classes: list[int], group: str | None = None, role: Role = "train") -> ImageRecord:
    name = f"{role}/{n:04d}.jpg"
    parts = tuple(Annotation(j, k, [[0, 0, 1, 0, 1, 1]], 1.0, False) for j, k in enumerate(classes))
    return ImageRecord(name, Path(name), 8, 8, group or name, role, parts)


def index_of(*images: ImageRecord) -> SegIndex:
    return SegIndex("toy", images, CLASSES, "f00d", any(each.group != each.image_id for each in images))


def many(num_images: int, num_groups: int | None = None) -> SegIndex:
    rng = np.random.default_rng(7)
    images = []
    for n in range(num_images):
        classes = [1] * bool(rng.random() < 0.7) + [2] * (n % 20 == 3) + [3] * (n in (5, 50, 95))
        group = None if num_groups is None else f"g{int(rng.integers(num_groups))}"
        images.append(image(n, classes, group))
    return index_of(*images)


def shown(index: SegIndex, ids: tuple[str, ...], class_index: int) -> int:
    records = index.by_id()
    return sum(any(a.class_index == class_index for a in records[i].annotations) for i in ids)


def parts(split: Split) -> list[tuple[str, ...]]:
    return [split.train_ids, split.val_ids, split.holdout_ids]


def test_shares_and_classes_are_met() -> None:
    index = many(100)
    split = make_split(index, seed=0)
    assert [len(ids) for ids in parts(split)] == [60, 20, 20]
    assert sorted(sum(parts(split), ())) == sorted(index.ids("train"))
    assert [shown(index, ids, 2) for ids in parts(split)] == [3, 1, 1]
    assert [shown(index, ids, 3) for ids in parts(split)] == [1, 1, 1]
    assert split.notes == ()


def test_equal_seeds_agree_and_others_do_not() -> None:
    index = many(100)
    assert make_split(index, seed=1) == make_split(index, seed=1)
    assert make_split(index, seed=1).fingerprint != make_split(index, seed=2).fingerprint
    other = replace(index, fingerprint="beef")
    assert make_split(index, seed=1).fingerprint != make_split(other, seed=1).fingerprint


@pytest.mark.parametrize("num_groups", [3, 7, 40])
@pytest.mark.parametrize("seed", [0, 1])
def test_no_group_is_in_two_parts(num_groups: int, seed: int) -> None:
    index = many(200, num_groups)
    split = make_split(index, seed=seed)
    records = index.by_id()
    groups = [{records[i].group for i in ids} for ids in parts(split)]
    assert all(groups)
    assert sum(len(each) for each in groups) == len(set.union(*groups))


def test_given_parts_are_kept_and_only_the_missing_one_is_carved() -> None:
    given = [image(n, [1], role="val") for n in range(4)]
    index = index_of(*(image(n, [1]) for n in range(20)), *given, image(0, [], role="unlabelled"))
    split = make_split(index, seed=0, holdout_share=0.25)
    assert split.val_ids == index.ids("val")
    assert [len(ids) for ids in parts(split)] == [15, 4, 5]
    everything = index_of(*index.images, image(0, [1], role="holdout"))
    assert make_split(everything, seed=0).train_ids == index.ids("train")


def test_a_group_of_a_given_part_is_never_carved() -> None:
    given = image(0, [1], "g0", role="val")
    index = index_of(*(image(n, [1], f"g{n % 4}") for n in range(20)), given)
    split = make_split(index, seed=0)
    assert {index.by_id()[i].group for i in split.holdout_ids} <= {"g1", "g2", "g3"}
    assert any("group 'g0' is in train and val" in note for note in split.notes)


@pytest.mark.parametrize("num_groups", [1, 2])
def test_too_few_groups_are_cut_into_blocks_and_said_so(num_groups: int) -> None:
    index = index_of(*(image(n, [1], f"g{n % num_groups}") for n in range(10)))
    split = make_split(index, seed=0)
    names = sorted(index.ids("train"))
    assert parts(split) == [tuple(names[:6]), tuple(names[6:8]), tuple(names[8:])]
    assert "contiguous blocks by name" in split.notes[0]


def test_a_class_that_a_part_lacks_is_named_and_train_comes_first() -> None:
    index = index_of(*(image(n, [1, 2] + [3] * (n == 4)) for n in range(12)))
    split = make_split(index, seed=3)
    assert shown(index, split.train_ids, 3) == 1
    assert split.notes == ("class 'scarce' is absent from val and holdout; shown by 1 image in all",)


def test_whole_groups_that_miss_the_share_are_noted() -> None:
    index = index_of(*(image(n, [1, 2, 3], f"g{n // 10}") for n in range(30)))
    assert any("val has 10 images where 6 were wanted" in note for note in make_split(index, seed=0).notes)


@pytest.mark.parametrize(
    ("num_images", "shares", "message"),
    [
        (2, (0.2, 0.2), "at least 3 images to carve val and holdout"),
        (9, (0.0, 0.2), "val_share must lie between 0 and 1, got 0.0"),
        (9, (0.6, 0.5), "must leave images to train"),
    ],
)
def test_impossible_splits_are_refused(num_images: int, shares: tuple[float, float], message: str) -> None:
    index = index_of(*(image(n, [1]) for n in range(num_images)))
    with pytest.raises(ValueError, match=message):
        make_split(index, seed=0, val_share=shares[0], holdout_share=shares[1])


def test_three_images_give_one_to_each_part() -> None:
    index = index_of(*(image(n, [1]) for n in range(3)))
    assert [len(ids) for ids in parts(make_split(index, seed=0))] == [1, 1, 1]


def test_a_class_is_absent_where_it_has_no_pixel_whatever_is_annotated() -> None:
    index = index_of(*(image(n, [1, 2], role=role) for n, role in enumerate(("train", "val", "holdout"))))
    bare = replace(index.images[1], annotations=tuple(replace(a, area=0) for a in index.images[1].annotations))
    by_mask = make_split(replace(index, images=(index.images[0], bare, index.images[2])), seed=0).notes
    assert "class 'rare' is absent from val; shown by 2 images in all" in by_mask
    pixels = {each.image_id: np.array([40, 24, 0, 0]) for each in index.images}  # class 2 is covered everywhere
    by_pixels = make_split(index, seed=0, known=DecodedFacts(pixels=pixels)).notes
    assert "class 'rare' is absent from train and val and holdout; shown by 0 images in all" in by_pixels
    assert not any("'common'" in note or "'Background'" in note for note in by_pixels)


def test_groups_that_the_same_parts_share_are_one_note() -> None:
    index = index_of(*(image(n, [1], f"g{n // 2}") for n in range(12)))
    ids = [record.image_id for record in index.images]
    part_of = {one: "val" if n % 2 else "train" for n, one in enumerate(ids)} | {ids[11]: "holdout"}
    groups = {record.image_id: record.group for record in index.images}
    assert straddling(index, part_of, groups) == [
        "group 'g5' is in train and holdout: scores there may flatter",
        "groups 'g0', 'g1', 'g2' and 2 more are in train and val: scores there may flatter",
    ]
