from __future__ import annotations

import json
import multiprocessing
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from trainables.data.augment.crop import Pixels
from trainables.data.augment.train_set import TrainSet, stop_workers, to_batch, train_loader
from trainables.data.cache import Cache
from trainables.data.card import read_card
from trainables.data.index import SegIndex
from trainables.data.reader import read
from trainables.data.synthetic.dataset import write_synthetic
from trainables.recipe.augmentation import Augmentation

AUG = Augmentation(crop_px=32, vflip_p=0.5, colour_p=0.8)
Raw = tuple[Tensor, Tensor, Tensor]


class FakeCache:
    """Six images of noise, each of another size; labels tell which image and column a pixel is from."""

    index = SegIndex("fake", (), ("a", "b"), "f", grouped=False)

    def image(self, image_id: str) -> Pixels:
        return np.random.default_rng(int(image_id)).integers(0, 255, (*self.size(image_id), 3), dtype=np.uint8)

    def label(self, image_id: str) -> Pixels:
        return np.full(self.size(image_id), int(image_id), np.uint8)

    def size(self, image_id: str) -> tuple[int, int]:
        return 40 + 5 * int(image_id), 60


def _dataset(num_images: int = 6, seed: int = 0) -> TrainSet:
    return TrainSet(cast(Cache, FakeCache()), [str(n) for n in range(num_images)], AUG, seed)


def _epoch(num_workers: int, epoch: int, seed: int = 0) -> list[Raw]:
    loader = train_loader(_dataset(seed=seed), 2, num_workers, epoch)
    try:
        return [cast(Raw, tuple(part.clone() for part in raw)) for raw in loader]
    finally:
        stop_workers(loader)


def _equal(one: list[Raw], two: list[Raw]) -> bool:
    parts = zip([p for raw in one for p in raw], [p for raw in two for p in raw], strict=True)
    return all(torch.equal(a, b) for a, b in parts)


@pytest.fixture(scope="module", autouse=True)
def _opencv_threads() -> Iterator[None]:
    threads = cv2.getNumThreads()
    cv2.setNumThreads(0)  # forking a process whose OpenCV pool runs is the parent's risk, not the loader's
    yield
    cv2.setNumThreads(threads)


def test_item_has_the_types_of_the_contract() -> None:
    image, label, position = _dataset()[4]
    assert (image.shape, image.dtype, label.shape, label.dtype) == ((3, 32, 32), torch.uint8, (32, 32), torch.uint8)
    assert position == 4
    assert set(label.flatten().tolist()) <= {4, 255}


@pytest.mark.filterwarnings("ignore:This DataLoader will create 4 worker")  # two cores
@pytest.mark.parametrize("num_workers", [1, 4])
def test_workers_give_the_batches_that_no_workers_give(num_workers: int) -> None:
    assert _equal(_epoch(num_workers, epoch=2), _epoch(0, epoch=2))


def test_epochs_and_seeds_differ() -> None:
    first = _epoch(0, epoch=1)
    assert not _equal(first, _epoch(0, epoch=2))
    assert not _equal(first, _epoch(0, epoch=1, seed=1))
    assert _equal(first, _epoch(0, epoch=1))


def test_a_sample_depends_on_its_position_and_not_on_what_came_before() -> None:
    dataset, fresh = _dataset(), _dataset()
    _ = [dataset[n] for n in (3, 1, 4, 1, 5)]
    assert torch.equal(dataset[2][0], fresh[2][0])


@pytest.mark.parametrize("num_workers", [0, 2])
def test_one_loader_serves_all_epochs(num_workers: int) -> None:
    dataset = _dataset()
    loader = train_loader(dataset, 2, num_workers, epoch=1)
    try:
        for epoch in (1, 2, 3):
            dataset.set_epoch(epoch)
            assert _equal(list(loader), _epoch(0, epoch))
    finally:
        stop_workers(loader)


def test_an_abandoned_epoch_leaves_nothing_behind() -> None:
    dataset = _dataset()
    loader = train_loader(dataset, 2, 2, epoch=1)
    try:
        next(iter(loader))
        dataset.set_epoch(2)
        assert _equal(list(loader), _epoch(0, epoch=2))
    finally:
        stop_workers(loader)


def test_stop_workers_ends_them_and_the_loader_works_on() -> None:
    loader = train_loader(_dataset(), 2, 2, epoch=1)
    first = next(iter(loader))
    assert len(multiprocessing.active_children()) >= 2
    before = set(multiprocessing.active_children())
    stop_workers(loader)
    assert not [child for child in before if child.is_alive() and child.name.startswith("pt_data")]
    assert torch.equal(next(iter(loader))[0], first[0])
    stop_workers(loader)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_torch_s_global_generator_is_not_drawn_from(num_workers: int) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    _epoch(num_workers, epoch=1)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(("num_images", "sizes"), [(6, [4]), (4, [4]), (3, [3]), (1, [1])])
def test_short_batches_are_left_out_where_the_set_has_a_whole_one(num_images: int, sizes: list[int]) -> None:
    loader = train_loader(_dataset(num_images), 4, 0, epoch=0)
    assert [len(raw[0]) for raw in loader] == sizes


def test_each_epoch_shows_each_image_once() -> None:
    positions = torch.cat([raw[2] for raw in _epoch(0, epoch=7)])
    assert sorted(positions.tolist()) == list(range(6))


def test_to_batch_normalises_as_torchvision_would() -> None:
    raw = next(iter(train_loader(_dataset(), 3, 0, epoch=0)))
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    batch = to_batch(cast(Raw, tuple(raw)), "cpu", mean, std)
    expected = (raw[0] / 255 - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    assert torch.allclose(batch.image, expected, atol=1e-5)
    assert torch.equal(batch.label, raw[1])
    assert (batch.image.dtype, batch.label.dtype, batch.image_id.dtype) == (torch.float32, torch.int64, torch.int64)
    assert torch.equal(batch.image_id, raw[2])


def test_a_set_without_images_is_refused() -> None:
    with pytest.raises(ValueError, match="needs at least one image"):
        _dataset(num_images=0)


def test_a_real_cache_goes_through_workers(tmp_path: Path) -> None:
    index = read(read_card(write_synthetic(tmp_path / "set", num_images=18, image_px=64, seed=0)))
    cache = Cache.open(index, tmp_path / "cache")
    batches = []
    for num_workers in (0, 2):
        loader = train_loader(TrainSet(cache, index.ids("train"), AUG, 0), 4, num_workers, 1)
        batches.append([cast(Raw, tuple(part.clone() for part in raw)) for raw in loader])
        stop_workers(loader)
    assert _equal(*batches)
    assert {v for _, label, _ in batches[0] for v in label.flatten().tolist()} <= {*range(11), 255}


@pytest.mark.skipif(not Path("/proc/self/smaps").is_file(), reason="needs Linux's /proc/self/smaps")
def test_a_crop_of_a_large_image_reads_its_window_alone(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((3000, 3000, 3), np.uint8))
    entry = {"id": 0, "file_name": "a.png", "height": 3000, "width": 3000}
    paper = {"id": 0, "image_id": 0, "category_id": 1, "segmentation": [[0, 0, 9, 0, 9, 9]]}
    content = {"images": [entry], "annotations": [paper], "categories": [{"id": 1, "name": "Paper"}]}
    (tmp_path / "train.json").write_text(json.dumps(content))
    (tmp_path / "data.yaml").write_text("train: train.json\n")
    cache = Cache.open(read(read_card(tmp_path / "data.yaml")), tmp_path / "cache")
    given = {"crop_px": 64, "scale_min": 0.5, "scale_max": 0.5}
    TrainSet(cache, ["a.png"], Augmentation.model_validate(given), 0)[0]
    blocks = Path("/proc/self/smaps").read_text().split(str(cache.folder / "images.u8"))[1:]
    resident_kb = sum(int(block.split("Rss:")[1].split()[0]) for block in blocks)
    assert 0 < resident_kb < 0.25 * 3 * 3000**2 / 1024  # 128 of 3000 rows, in the whole pages that the kernel maps
