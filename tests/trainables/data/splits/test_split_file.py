"""A split file: read back it is the split that was written, and what does not fit the data is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from trainables.data.index import Annotation, ImageRecord, SegIndex
from trainables.data.splits.make_split import DecodedFacts, make_folds, make_split
from trainables.data.splits.split_file import read_folds, read_split, write_split


def index_of(num_images: int) -> SegIndex:
    shape = [[0.0, 0, 4, 0, 4, 4]]
    names = [f"{n:03d}.jpg" for n in range(num_images)]
    return SegIndex(
        "toy",
        tuple(
            ImageRecord(name, Path(name), 8, 8, name, "train", (Annotation(n, 1 + n % 2, shape, 8.0, False),))
            for n, name in enumerate(names)
        ),
        ("Background", "a", "b"),
        "f00d",
        False,
    )


@pytest.fixture
def written(tmp_path: Path) -> tuple[SegIndex, Path]:
    index = index_of(30)
    split = make_split(index, seed=0)
    folds, _ = make_folds(index, split, 3, seed=0)
    write_split(tmp_path / "split.json", index, split, folds, seed=0)
    return index, tmp_path / "split.json"


def test_a_split_is_read_back(written: tuple[SegIndex, Path]) -> None:
    index, path = written
    assert read_split(path, index) == make_split(index, seed=0)


def test_a_split_that_an_editor_saved_with_a_bom_is_read(written: tuple[SegIndex, Path], tmp_path: Path) -> None:
    index, path = written
    (tmp_path / "saved.json").write_text("\ufeff" + path.read_text().replace("\n", "\r\n"), encoding="utf-8")
    assert read_split(tmp_path / "saved.json", index) == read_split(path, index)


def test_a_fold_tunes_and_the_others_train(written: tuple[SegIndex, Path]) -> None:
    index, path = written
    folds, whole = read_folds(path), read_split(path, index)
    seen: list[str] = []
    for f in range(3):
        split = read_split(path, index, fold=f)
        assert set(split.val_ids) == set(folds[f])
        assert set(split.train_ids) == {i for g in range(3) if g != f for i in folds[g]}
        assert split.holdout_ids == whole.holdout_ids
        seen += split.val_ids
    assert sorted(seen) == sorted(whole.train_ids + whole.val_ids)


def test_a_fold_is_told_what_it_lacks(written: tuple[SegIndex, Path]) -> None:
    index, path = written
    content = json.loads(path.read_text())
    ids = content["train"] + content["val"]
    by_class = [[i for i in ids if int(i[:3]) % 2 == k] for k in (0, 1)]
    path.write_text(json.dumps(content | {"folds": by_class, "notes": ["of another val"]}))
    first, second = read_split(path, index, fold=0).notes
    assert first.startswith("class 'a' is absent from train")
    assert second.startswith("class 'b' is absent from val")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "other"}, "has format"),
        ({"val": []}, "val must hold at least one image"),
        ({"val": ["nowhere.jpg"]}, "is not in the data"),
        ({"val": "000.jpg"}, "must be a list of image_ids"),
    ],
)
def test_what_does_not_fit_is_refused(written: tuple[SegIndex, Path], change: dict[str, object], message: str) -> None:
    index, path = written
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ValueError, match=message):
        read_split(path, index)


def test_an_image_in_two_parts_and_a_missing_fold_are_refused(written: tuple[SegIndex, Path]) -> None:
    index, path = written
    with pytest.raises(ValueError, match="one of the file's 3 folds, counted from 0, got 3"):
        read_split(path, index, fold=3)
    content = json.loads(path.read_text())
    content["val"].append(content["train"][0])
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="is in train and val"):
        read_split(path, index)


def test_clusters_stay_on_one_side_of_every_split_and_fold() -> None:
    index = index_of(60)
    clusters = {image.image_id: f"c{n % 60 // 3}" for n, image in enumerate(index.images)}
    for seed in range(5):
        split = make_split(index, seed=seed, known=DecodedFacts(clusters=clusters))
        folds, notes = make_folds(index, split, 4, seed=seed, known=DecodedFacts(clusters=clusters))
        for parts in ((split.train_ids, split.val_ids, split.holdout_ids), folds):
            found = [{clusters[i] for i in ids} for ids in parts]
            assert sum(map(len, found)) == len(set.union(*found))
        assert notes == ()


def test_carved_again_a_given_val_is_dealt_anew() -> None:
    plain = index_of(40)
    images = tuple(
        ImageRecord(i.image_id, i.path, 8, 8, f"g{n // 10}", "val" if 30 <= n < 34 else "train", i.annotations)
        for n, i in enumerate(plain.images)
    )
    index = SegIndex("toy", images, plain.classes, "f00d", True)
    kept = make_split(index, seed=0, holdout_share=0.25)
    assert any("group 'g3' is in train and val" in note for note in kept.notes)
    fresh = make_split(index, seed=0, val_share=0.25, holdout_share=0.25, carve_again=("val",))
    assert not any("is in train and val" in note for note in fresh.notes)
    assert len(fresh.val_ids) == 10


def test_pixel_shares_are_stratified_beside_presence() -> None:
    index = index_of(80)  # every image shows a or b; a third of them very large
    pixels = {
        i.image_id: [0, 60 if n % 6 == 0 else 3, 0] if n % 2 == 0 else [0, 0, 10] for n, i in enumerate(index.images)
    }
    import numpy as np

    known = DecodedFacts(pixels={name: np.array(row) for name, row in pixels.items()})
    split = make_split(index, seed=1, known=known)
    total = sum(row[1] for row in pixels.values())
    for ids, share in ((split.train_ids, 0.6), (split.val_ids, 0.2), (split.holdout_ids, 0.2)):
        assert sum(pixels[i][1] for i in ids) / total == pytest.approx(share, abs=0.07)
