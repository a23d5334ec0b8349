"""The cache: the same pixels as decode-and-rasterise, built once, never half, cheap to open elsewhere."""

from __future__ import annotations

import os
import pickle
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from trainables.data import cache as cache_module
from trainables.data.cache import Cache
from trainables.data.card import DataProblems
from trainables.data.index import Annotation, ImageRecord, Role, SegIndex
from trainables.data.raster import rasterise

SIZES = [(24, 32), (17, 9), (8, 40)]


@pytest.fixture
def index(tmp_path: Path) -> SegIndex:
    """Three images of different sizes; the last has no label."""
    rng = np.random.default_rng(0)
    images = []
    roles: list[Role] = ["train", "val", "unlabelled"]
    for n, ((height, width), role) in enumerate(zip(SIZES, roles, strict=True)):
        path = tmp_path / "data" / f"{n}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(path)
        square = Annotation(n, 2, [[1.0, 1.0, 6.0, 1.0, 6.0, 6.0, 1.0, 6.0]], 25.0, False)
        void = Annotation(9, 255, {"size": [height, width], "counts": [0, 3, height * width - 3]}, 3.0, False)
        annotations = (square, void) if role != "unlabelled" else ()
        images.append(ImageRecord(path.name, path, height, width, path.name, role, annotations))
    return SegIndex("toy", tuple(images), ("Background", "paper", "glass"), "f00d", False, licences=("mine",))


def test_pixels_are_those_of_the_files(index: SegIndex, tmp_path: Path) -> None:
    cache = Cache.open(index, tmp_path / "cache")
    for record in index.images:
        assert np.array_equal(cache.image(record.image_id), np.asarray(Image.open(record.path)))
        assert cache.size(record.image_id) == (record.height, record.width)
    for record in index.images[:2]:
        assert np.array_equal(cache.label(record.image_id), rasterise(record, 255))
    assert not cache.image("0.png").flags.writeable
    assert not list((tmp_path / "cache").glob(".f00d*"))


def test_class_pixels_are_counted_without_the_ignored(index: SegIndex, tmp_path: Path) -> None:
    cache = Cache.open(index, tmp_path / "cache")
    labels = np.concatenate([cache.label(name).ravel() for name in ("0.png", "1.png")])
    assert cache.class_pixels(["0.png", "1.png"]).tolist() == [int((labels == k).sum()) for k in range(3)]
    assert cache.class_pixels([]).tolist() == [0, 0, 0]


def test_without_background_unannotated_pixels_are_ignored(index: SegIndex, tmp_path: Path) -> None:
    cache = Cache.open(replace(index, classes=("a", "b", "c")), tmp_path / "cache")
    assert np.unique(cache.label("0.png")).tolist() == [2, 255]


def test_unlabelled_and_unknown_images_are_refused(index: SegIndex, tmp_path: Path) -> None:
    cache = Cache.open(index, tmp_path / "cache")
    for refused in (lambda: cache.label("2.png"), lambda: cache.class_pixels(["2.png"])):
        with pytest.raises(ValueError, match=r"'2\.png' has no label"):
            refused()
    with pytest.raises(ValueError, match=r"'x\.png' is not in the cache"):
        cache.image("x.png")


def test_a_second_opening_reads_no_image(index: SegIndex, tmp_path: Path) -> None:
    Cache.open(index, tmp_path / "cache")
    shutil.rmtree(tmp_path / "data")
    assert Cache.open(index, tmp_path / "cache").image("1.png").shape == (17, 9, 3)


def test_only_paths_travel_and_the_index_comes_back(index: SegIndex, tmp_path: Path) -> None:
    cache = Cache.open(index, tmp_path / "cache")
    sent = pickle.dumps(cache)
    assert len(sent) < 1000
    received = pickle.loads(sent)  # noqa: S301
    assert received.index == index
    assert np.array_equal(received.label("1.png"), cache.label("1.png"))


def test_a_moved_data_set_shares_the_cache_and_keeps_its_own_paths(index: SegIndex, tmp_path: Path) -> None:
    Cache.open(index, tmp_path / "cache")
    moved = replace(index, images=tuple(replace(i, path=Path("/moved") / i.image_id) for i in index.images))
    cache = pickle.loads(pickle.dumps(Cache.open(moved, tmp_path / "cache")))  # noqa: S301
    assert cache.index == moved


def count_builds(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    built: list[Path] = []
    build: Any = cache_module._build

    def counting(index: SegIndex, folder: Path) -> None:
        built.append(folder)
        build(index, folder)

    monkeypatch.setattr(cache_module, "_build", counting)
    return built


def test_openings_at_the_same_time_build_once(index: SegIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built = count_builds(monkeypatch)
    with ThreadPoolExecutor(4) as pool:
        caches = list(pool.map(lambda _: Cache.open(index, tmp_path / "cache"), range(4)))
    assert len(built) == 1
    assert len({cache.folder for cache in caches}) == 1


BUILDER = """
import pickle, sys
from pathlib import Path
from trainables.data import cache
build = cache._build
cache._build = lambda index, folder: (print("built"), build(index, folder))
index = pickle.loads(Path(sys.argv[1]).read_bytes())
cache.Cache.open(index, Path(sys.argv[2])).image("0.png")
"""


def test_processes_that_start_together_build_once(index: SegIndex, tmp_path: Path) -> None:
    (tmp_path / "index.pickle").write_bytes(pickle.dumps(index))
    command = [sys.executable, "-c", BUILDER, str(tmp_path / "index.pickle"), str(tmp_path / "cache")]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    outputs = [process.communicate(timeout=180)[0] for process in started]
    assert [process.returncode for process in started] == [0, 0, 0]
    assert "".join(outputs).count("built") == 1


def test_what_a_killed_builder_left_is_removed(index: SegIndex, tmp_path: Path) -> None:
    left = tmp_path / "cache" / f".f00d-v{cache_module.FORMAT}-abc"
    left.mkdir(parents=True)
    Cache.open(index, tmp_path / "cache")
    assert not left.exists()


def test_every_unreadable_image_is_named_and_nothing_is_left(index: SegIndex, tmp_path: Path) -> None:
    for name in ("0.png", "2.png"):
        whole = (tmp_path / "data" / name).read_bytes()
        (tmp_path / "data" / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataProblems) as caught:
        Cache.open(index, tmp_path / "cache")
    assert [name in problem for name, problem in zip(("0.png", "2.png"), caught.value.problems, strict=True)]
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".lock"]


def test_too_small_a_disk_is_said_before_anything_is_decoded(
    index: SegIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache_module, "SPARE_BYTES", 2**62)
    shutil.rmtree(tmp_path / "data")
    with pytest.raises(ValueError, match=r"3 images needs .* GiB .* put the cache on a larger disk"):
        Cache.open(index, tmp_path / "cache")


def test_a_disk_that_fills_while_building_is_one_message(
    index: SegIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> int:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(ValueError, match=r"cannot be written \(No space left on device\)"):
        Cache.open(index, tmp_path / "cache")
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".lock"]


@pytest.mark.parametrize("name", ["labels.u8", "layout.npy", "meta.json"])
def test_a_damaged_cache_is_named(index: SegIndex, tmp_path: Path, name: str) -> None:
    folder = Cache.open(index, tmp_path / "cache").folder
    os.truncate(folder / name, (folder / name).stat().st_size // 2)
    with pytest.raises(ValueError, match=r"is damaged .* delete that folder"):
        Cache.open(index, tmp_path / "cache")
