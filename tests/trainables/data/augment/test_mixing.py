"""Mixed images: whose parts they hold, that objects stay whole, how often classes come, and that nothing leaks."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path
from typing import Any, cast

import cv2
import numpy as np
import pytest
import torch

from trainables.data.augment.mix_sources import Sources, mask_in_box
from trainables.data.augment.mixing import Mix
from trainables.data.augment.pipeline import reseed
from trainables.data.augment.train_set import TrainSet, stop_workers, train_loader
from trainables.data.cache import Cache
from trainables.data.card import read_card
from trainables.data.raster import segmentation_mask
from trainables.data.reader import read
from trainables.data.splits.make_split import make_split
from trainables.data.synthetic.dataset import write_synthetic
from trainables.recipe.augmentation import Augmentation

EVERY = {"mosaic": {"p": 0.4}, "cutmix": {"p": 0.4}, "classmix": {"p": 0.4}, "copy_paste": {"p": 0.6, "objects_max": 4}}


class Plain:
    """Image n is filled with the colour n, its label with n: what is seen tells where it is from."""

    def __init__(self, num_images: int = 8) -> None:
        self.index = type("Index", (), {"background": False, "ignore_index": 255, "flip_pairs": ()})()
        self.num_images = num_images

    def image(self, image_id: str) -> np.ndarray:
        return np.full((80, 80, 3), int(image_id), np.uint8)

    def label(self, image_id: str) -> np.ndarray:
        return np.full((80, 80), int(image_id), np.uint8)

    def size(self, _: str) -> tuple[int, int]:
        return 80, 80

    def class_pixels_by_image(self, ids: tuple[str, ...]) -> np.ndarray:
        return np.eye(self.num_images, dtype=np.int64)[[int(n) for n in ids]]


def plain(**mixing: Any) -> tuple[Mix, Sources]:
    aug = Augmentation.model_validate({"crop_px": 64, "scale_min": 1.0, "scale_max": 1.0, **mixing})
    return Mix.of(aug), Sources(cast(Cache, Plain()), [str(n) for n in range(8)], aug)


def mixed(mix: Mix, sources: Sources, seed: int, position: int = 3) -> tuple[np.ndarray, np.ndarray]:
    mix.set_random_state(np.random.default_rng(seed), random.Random(seed))
    image, label = np.full((64, 64, 3), position, np.uint8), np.full((64, 64), position, np.uint8)
    out = mix(image=image, mask=label, sources=sources, position=position)
    return out["image"], out["mask"]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    root = tmp_path_factory.mktemp("mix")
    return Cache.open(
        read(read_card(write_synthetic(root / "set", num_images=30, image_px=96, seed=0))), root / "cache"
    )


def test_a_mosaic_s_quadrants_come_from_four_different_images() -> None:
    mix, sources = plain(mosaic={"p": 1.0})
    for seed in range(30):
        image, label = mixed(mix, sources, seed)
        corners = {int(label[y, x]) for y in (0, -1) for x in (0, -1)}
        assert len(corners) == 4
        assert 3 in corners
        assert set(np.unique(label)) == corners == {3, *mix.used}
        assert np.array_equal(image[..., 0], label)


@pytest.mark.parametrize("name", ["cutmix", "classmix"])
def test_what_is_mixed_in_moves_with_its_label(name: str) -> None:
    mix, sources = plain(**{name: {"p": 1.0}})
    shares = []
    for seed in range(200):
        image, label = mixed(mix, sources, seed)
        assert np.array_equal(image[..., 0], label)
        assert set(np.unique(label)) <= {3, *mix.used}
        shares.append((label != 3).mean())
    if name == "cutmix":  # uniform for Beta(1, 1), less what the clipping at the rim takes
        assert 0.2 < np.mean(shares) < 0.5
    else:
        assert np.mean(shares) == 1.0  # one class alone: half of it, rounded up, is all


def test_classmix_lays_half_of_the_classes_and_no_background(cache: Cache) -> None:
    aug = Augmentation.model_validate({"crop_px": 96, "classmix": {"p": 1.0}, "scale_min": 1.0, "scale_max": 1.0})
    sources, mix = Sources(cache, cache.index.ids("train"), aug), Mix.of(aug)
    empty = np.zeros((96, 96), np.uint8)
    for seed in range(20):
        mix.set_random_state(np.random.default_rng(seed), random.Random(seed))
        out = mix(image=np.zeros((96, 96, 3), np.uint8), mask=empty, sources=sources, position=0)
        if not mix.used:
            continue
        shown = set(np.unique(cache.label(sources.ids[mix.used[0]]))) - {0, 255}
        assert len(set(np.unique(out["mask"])) - {0}) == (len(shown) + 1) // 2


def test_pasted_objects_stay_whole_and_are_painted_over(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    values = {"p": 1.0, "objects_max": 3, "soft_edge_px": 0.0, "scale_min": 0.5, "scale_max": 2.0}
    aug = Augmentation.model_validate({"crop_px": 96, "copy_paste": values})
    sources, mix = Sources(cache, cache.index.ids("train"), aug), Mix.of(aug)
    pink = np.full((96, 96, 3), (255, 0, 254), np.uint8)
    num_pasted = 0
    areas: list[int] = []
    free_place = mix._free_place

    def watched(occupied: np.ndarray, mask: np.ndarray) -> Any:
        place = free_place(occupied, mask)
        areas.extend([int(mask.sum())] if place else [])
        return place

    monkeypatch.setattr(mix, "_free_place", watched)
    for seed in range(25):
        areas.clear()
        mix.set_random_state(np.random.default_rng(seed), random.Random(seed))
        out = mix(image=pink, mask=np.full((96, 96), 255, np.uint8), sources=sources, position=0)
        regions = (out["mask"] != 255).astype(np.uint8)
        num_pasted += len(mix.used)
        painted = (out["image"] != pink).any(-1)
        assert np.array_equal(painted, regions > 0)  # the image changes exactly where the label does
        assert regions.sum() == sum(areas)  # whole, and none over another
    assert num_pasted > 20


def test_an_object_is_as_large_as_its_annotation_says(cache: Cache) -> None:
    aug = Augmentation.model_validate({"copy_paste": {"p": 1.0}})
    sources = Sources(cache, cache.index.ids("train"), aug)
    records, generator = cache.index.by_id(), random.Random(0)
    for _ in range(20):
        thing = sources.thing(generator, 1.0)
        assert thing is not None
        record = records[sources.ids[thing.position]]
        areas = [a.area for a in record.annotations if a.class_index == thing.class_index]
        assert min(abs(thing.mask.sum() / area - 1) for area in areas) < 0.15


def test_soft_edges_blend_the_image_and_leave_the_label_hard(cache: Cache) -> None:
    ids, masks, images = cache.index.ids("train"), [], []
    for soft in (0.0, 2.0):
        aug = Augmentation.model_validate({"copy_paste": {"p": 1.0, "soft_edge_px": soft}})
        mix = Mix.of(aug)
        mix.set_random_state(np.random.default_rng(5), random.Random(5))
        out = mix(
            image=np.zeros((96, 96, 3), np.uint8),
            mask=np.zeros((96, 96), np.uint8),
            sources=Sources(cache, ids, aug),
            position=0,
        )
        masks.append(out["mask"])
        images.append(out["image"].astype(int))
    assert np.array_equal(*masks)
    rim = cv2.dilate((masks[0] > 0).astype(np.uint8), np.ones((3, 3))) - cv2.erode(
        (masks[0] > 0).astype(np.uint8), np.ones((3, 3))
    )
    changed = np.abs(images[0] - images[1]).sum(-1) > 0
    assert changed[rim > 0].mean() > 0.5


@pytest.mark.parametrize("rare", [0.0, 0.5, 1.0])
def test_images_come_as_often_as_the_rare_class_weight_asks(cache: Cache, rare: float) -> None:
    ids = cache.index.ids("train")
    aug = Augmentation(crop_px=32, rare_class_weight=rare)
    sources = Sources(cache, ids, aug)
    shows = cache.class_pixels_by_image(ids) > 0  # (N,K)
    repeat = shows.mean(0).clip(1 / len(ids)) ** -rare
    expected = np.array([max([repeat[k] for k in np.flatnonzero(row)]) for row in shows])
    expected /= expected.sum()
    assert np.allclose(sources.probabilities(rare), expected)
    if rare == 0.0:
        assert np.allclose(expected, 1 / len(ids))
        return
    dataset = TrainSet(cache, ids, aug, seed=0)
    counts: Counter[int] = Counter()
    for epoch in range(100):
        dataset.set_epoch(epoch)
        counts.update(dataset[n][2] for n in range(len(ids)))
    total = 100 * len(ids)
    seen = np.array([sum(counts[n] for n in np.flatnonzero(shows[:, k])) for k in range(shows.shape[1])]) / total
    wanted = (expected @ shows).clip(0, 1)  # how often a class is seen
    assert np.all(np.abs(seen - wanted) <= 4 * np.sqrt(wanted * (1 - wanted) / total) + 1e-9)


@pytest.mark.parametrize("rare", [0.0, 1.0, 2.0])
def test_objects_come_as_often_as_the_rare_class_weight_asks(cache: Cache, rare: float) -> None:
    sources = Sources(cache, cache.index.ids("train"), Augmentation.model_validate({"copy_paste": {"p": 1.0}}))
    table = sources._objects
    assert table is not None
    generator, draws = random.Random(1), 4000
    drawn = Counter(int(table._class[table.draw(generator, rare)]) for _ in range(draws))
    weight = table.counts.astype(float) ** (1 - rare)
    for k, wanted in zip(table.classes, weight / weight.sum(), strict=True):
        assert abs(drawn[int(k)] / draws - wanted) <= 4 * np.sqrt(wanted * (1 - wanted) / draws)


def test_parts_come_from_the_train_ids_alone(cache: Cache) -> None:
    split = make_split(cache.index, seed=0)
    asked: set[str] = set()

    class Watched:
        index = cache.index
        class_pixels_by_image, size = cache.class_pixels_by_image, cache.size

        def image(self, image_id: str) -> np.ndarray:
            asked.add(image_id)
            return cache.image(image_id)

        def label(self, image_id: str) -> np.ndarray:
            asked.add(image_id)
            return cache.label(image_id)

    aug = Augmentation.model_validate({"crop_px": 64, "rare_class_weight": 0.5, **EVERY})
    dataset = TrainSet(cast(Cache, Watched()), split.train_ids, aug, seed=0)
    for epoch in range(4):
        dataset.set_epoch(epoch)
        _ = [dataset[n] for n in range(len(dataset))]
    assert asked == set(split.train_ids)


@pytest.mark.filterwarnings("ignore:This DataLoader will create 4 worker")  # two cores
def test_the_same_seed_gives_the_same_mixed_batch_on_any_number_of_workers(cache: Cache) -> None:
    cv2.setNumThreads(0)
    aug = Augmentation.model_validate({"preset": "convnext_knet", "crop_px": 64, "rare_class_weight": 0.5, **EVERY})
    epochs = []
    for num_workers in (0, 1, 4):
        loader = train_loader(TrainSet(cache, cache.index.ids("train"), aug, 3), 4, num_workers, 2)
        epochs.append([tuple(part.clone() for part in raw) for raw in loader])
        stop_workers(loader)
    for other in epochs[1:]:
        for one, two in zip(epochs[0], other, strict=True):
            assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


def test_equal_draws_from_equal_sources_replay(cache: Cache) -> None:
    from trainables.data.augment.pipeline import read_pipeline, train_transform, write_pipeline

    aug = Augmentation.model_validate({"crop_px": 64, **EVERY})
    sources = Sources(cache, cache.index.ids("train"), aug)
    pipeline = train_transform(aug, 0)
    path = cache.folder.parent / "augmentation.json"
    write_pipeline(pipeline, path)
    copy = read_pipeline(path)
    image_id = sources.ids[4]
    for word in range(10):
        outs = []
        for each in (pipeline, copy):
            reseed(each, word)
            outs.append(each(image=cache.image(image_id), mask=cache.label(image_id), sources=sources, position=4))
        assert np.array_equal(outs[0]["image"], outs[1]["image"])
        assert np.array_equal(outs[0]["mask"], outs[1]["mask"])


def test_too_few_images_or_objects_are_refused(cache: Cache, tmp_path: Path) -> None:
    ids = cache.index.ids("train")
    with pytest.raises(ValueError, match=r"augmentation.mosaic needs 4 training images, got 3; set its p to 0"):
        TrainSet(cache, ids[:3], Augmentation.model_validate({"mosaic": {"p": 0.1}}), 0)
    with pytest.raises(ValueError, match=r"augmentation.copy_paste needs objects of 64 pixels or more"):
        TrainSet(cache, ids, Augmentation.model_validate({"copy_paste": {"share_max": 1e-6}}), 0)


@pytest.mark.parametrize("seed", range(30))
def test_a_mask_painted_in_its_box_is_that_of_the_whole_image_but_for_ties(seed: int) -> None:
    rng = np.random.default_rng(seed)
    centre, reach = rng.uniform(-20, 120, 2), rng.uniform(1, 40)
    outline = [
        (centre + rng.normal(0, reach, (int(rng.integers(3, 9)), 2))).ravel().round(2).tolist() for _ in range(2)
    ]
    whole = segmentation_mask(outline, 80, 100)
    mask, box = mask_in_box(outline, 80, 100)
    found = np.zeros_like(whole)
    found[box] = mask
    rim = cv2.morphologyEx(whole, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8))
    assert not ((found != whole) & (rim == 0)).any()
    assert (found != whole).sum() <= 3


@pytest.mark.parametrize(
    "outline",
    [
        [-300, 100, 12, 100, 12, 112, -300, 112],
        [-190, -190, 10, -190, 10, 10, -190, 10],
        [80, 520, 80, 107, 90, 107, 90, 700],
        [900, -600, 900, 20, 95, 3, 95, -600],
    ],
)
def test_an_object_mostly_outside_the_image_is_cut_out_where_it_shows(outline: list[int]) -> None:
    whole = segmentation_mask([outline], 120, 100)
    mask, box = mask_in_box([outline], 120, 100)
    assert whole.any()
    assert np.array_equal(mask, whole[box])
    assert mask.sum() == whole.sum()
