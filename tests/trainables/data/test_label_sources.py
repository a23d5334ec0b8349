"""The contract of label sources: each kind of label behaves alike, and one set given in two kinds is one set."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from mask_sets import made_label, write_both
from PIL import Image
from scipy import ndimage

from trainables.data.cache import Cache
from trainables.data.card import read_card
from trainables.data.index import IGNORE_INDEX, SegIndex
from trainables.data.label_sources import SOURCES, label_source, regions
from trainables.data.raster import check_segmentation, rasterise
from trainables.data.reader import read
from trainables.data.splits.make_split import decode_facts, make_folds, make_split

KINDS = tuple(SOURCES)


@pytest.fixture(scope="module")
def indices(tmp_path_factory: pytest.TempPathFactory) -> dict[str, SegIndex]:
    masks, coco = write_both(tmp_path_factory.mktemp("both"), 24)
    return {"annotations": read(read_card(coco)), "mask": read(read_card(masks))}


def test_every_kind_has_a_case(indices: dict[str, SegIndex]) -> None:
    assert set(indices) == set(KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_labels_are_the_pixels_that_were_drawn(indices: dict[str, SegIndex], kind: str) -> None:
    for n, record in enumerate(indices[kind].images):
        label = label_source(indices[kind], record).label()
        assert label.dtype == np.uint8
        np.testing.assert_array_equal(label, made_label(n))


@pytest.mark.parametrize("kind", KINDS)
def test_painting_the_objects_gives_the_label(indices: dict[str, SegIndex], kind: str) -> None:
    index = indices[kind]
    for record in index.images:
        source = label_source(index, record)
        objects = source.objects()
        assert len({each.annotation_id for each in objects}) == len(objects)
        assert not any(check_segmentation(each.segmentation, record.height, record.width) for each in objects)
        painted = rasterise(replace(record, annotations=objects, mask=None), IGNORE_INDEX, background=index.background)
        np.testing.assert_array_equal(painted, source.label())


@pytest.mark.parametrize("kind", KINDS)
def test_facts_that_need_no_decoding_agree_with_the_label(indices: dict[str, SegIndex], kind: str) -> None:
    for record in indices[kind].images:
        source = label_source(indices[kind], record)
        pixels = np.bincount(source.label().ravel(), minlength=3)
        assert source.shown_classes() == source.named_classes() == set(np.flatnonzero(pixels[1:]) + 1)
        np.testing.assert_array_equal(source.class_areas(), pixels)


def test_one_set_in_two_kinds_has_the_same_labels_splits_and_label_fingerprint(
    indices: dict[str, SegIndex], tmp_path: Path
) -> None:
    caches = [Cache.open(indices[kind], tmp_path) for kind in KINDS]
    assert caches[0].label_fingerprint == caches[1].label_fingerprint
    assert caches[0].folder != caches[1].folder
    splits = []
    for cache in caches:
        known = decode_facts(cache.index, cache)
        split = make_split(cache.index, seed=3, known=known)
        folds, _ = make_folds(cache.index, split, 3, seed=3, known=known)
        splits.append((split.train_ids, split.val_ids, split.holdout_ids, split.notes, folds))
    assert splits[0] == splits[1]
    first, second = (
        make_split(indices[kind], seed=3)
        for kind in KINDS  # nothing decoded
    )
    assert first.holdout_ids == second.holdout_ids


def test_the_label_fingerprint_follows_labels_and_class_names(tmp_path: Path) -> None:
    masks, _ = write_both(tmp_path, 4)
    first = Cache.open(read(read_card(masks)), tmp_path / "cache").label_fingerprint
    masks.write_text(masks.read_text().replace("glass", "glas"))
    renamed = Cache.open(read(read_card(masks)), tmp_path / "cache").label_fingerprint
    Image.fromarray(made_label(1)).save(tmp_path / "masks" / "00.png")
    edited = Cache.open(read(read_card(masks)), tmp_path / "cache").label_fingerprint
    assert len({first, renamed, edited}) == 3


def test_a_cache_opened_by_its_path_knows_the_masks(indices: dict[str, SegIndex], tmp_path: Path) -> None:
    cache = Cache.open(indices["mask"], tmp_path)
    rebuild, given = cache.__reduce__()
    assert rebuild(*given).index == indices["mask"]


def test_regions_are_the_connected_components_of_each_class() -> None:
    label = np.random.default_rng(0).choice([0, 1, 2, IGNORE_INDEX], (40, 30), p=[0.6, 0.2, 0.1, 0.1]).astype(np.uint8)
    for background in (True, False):
        found = regions(label, background=background, ignore_index=IGNORE_INDEX)
        shown = {1, 2, IGNORE_INDEX} if background else {0, 1, 2}
        expected = {k: ndimage.label(label == k, np.ones((3, 3)))[1] for k in shown}
        assert {k: sum(each.class_index == k for each in found) for k in expected} == expected
        assert sum(each.area for each in found) == np.isin(label, list(shown)).sum()


def test_a_mask_that_changed_after_it_was_read_is_refused(tmp_path: Path) -> None:
    masks, _ = write_both(tmp_path, 2)
    index = read(read_card(masks))
    Image.fromarray(np.full((24, 32), 9, np.uint8)).save(tmp_path / "masks" / "00.png")
    with pytest.raises(ValueError, match=r"00\.png: the mask has values that are no class; .* read the data set again"):
        label_source(index, index.images[0]).label()
    Image.fromarray(np.zeros((5, 5), np.uint8)).save(tmp_path / "masks" / "00.png")
    with pytest.raises(ValueError, match="the index says 32 x 24 px, the mask has 5 x 5"):
        label_source(index, index.images[0]).label()
