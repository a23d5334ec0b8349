"""The logit store: what is written comes back, bit for bit, and what does not belong together is refused by
name."""

from __future__ import annotations

import pickle
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from factories import make_header
from safetensors import safe_open

from trainables.logits.quantise import FLOOR
from trainables.logits.shard_format import LogitHeader, TruncatedShard
from trainables.logits.store import LogitStore, LogitWriter, check_together, forecast_bytes

HEADER = make_header("t0", classes=("road", "sky", "tree"), stride=4)


def write(
    folder: Path, header: LogitHeader = HEADER, num_images: int = 5, shard_bytes: int = 10**5
) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    arrays = {}
    with LogitWriter(folder, header, shard_bytes) as writer:
        for i in range(num_images):
            grid = rng.normal(size=(3, 4 + i, 7)).astype(np.float16)  # ragged sizes
            arrays[f"a/{i}.jpg"] = grid
            writer.add(f"a/{i}.jpg", grid, (16 + 4 * i, 28))
    return arrays


def test_round_trip_is_bit_exact_over_several_shards(tmp_path: Path) -> None:
    arrays = write(tmp_path, shard_bytes=500)
    store = LogitStore(tmp_path)
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    assert store.image_ids == tuple(sorted(arrays))
    assert store.header == HEADER
    assert store.sizes["a/2.jpg"] == (24, 28)
    for image_id, grid in arrays.items():
        np.testing.assert_array_equal(store.logits("s1.00-none", image_id), grid)


@pytest.mark.parametrize("spread", [0.0, 0.01, 6.0, 5000.0])
def test_8_bits_keep_every_label_and_each_probability_within_its_bound(tmp_path: Path, spread: float) -> None:
    grid = (spread * np.random.default_rng(1).normal(size=(3, 40, 50))).astype(np.float16)
    with LogitWriter(tmp_path, replace(HEADER, dtype="uint8")) as writer:
        writer.add("a.jpg", grid, (160, 200))
    found, exact = LogitStore(tmp_path).logits("s1.00-none", "a.jpg"), grid.astype(np.float32)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found.argmax(0), exact.argmax(0))
    below = exact.max(0) - exact
    bound = np.sqrt(np.minimum(below, FLOOR) * min(below.max(), FLOOR)) / 255 + min(below.max(), FLOOR) / 255**2
    assert (np.abs(found + np.minimum(below, FLOOR)) <= 1.001 * bound + 1e-6).all()


def test_views_of_one_store_may_differ_in_bits(tmp_path: Path) -> None:
    arrays = write(tmp_path)
    write(tmp_path, replace(HEADER, view="s1.00-horizontal", dtype="uint8"), shard_bytes=150)
    store = LogitStore(tmp_path)
    assert [store.dtype_of(view) for view in store.views] == ["uint8", "float16"]
    for image_id, grid in arrays.items():
        half = store.logits("s1.00-horizontal", image_id)
        np.testing.assert_allclose(half, grid - grid.max(0), atol=0.05)
        np.testing.assert_array_equal(store.logits("s1.00-none", image_id), grid)


@pytest.mark.parametrize("dtype", ["float16", "uint8"])
def test_the_reader_of_the_readme_reads_both_kinds(tmp_path: Path, dtype: Any) -> None:
    write(tmp_path, replace(HEADER, dtype=dtype), shard_bytes=300)
    text = (Path(__file__).parents[3] / "docs/guide.md").read_text(encoding="utf-8")
    [code] = [block for block in re.findall(r"```python\n(.*?)```", text, re.S) if "def read_logits" in block]
    names: dict[str, Any] = {}
    exec(code, names)  # noqa: S102  (the README's own lines)
    store, found = LogitStore(tmp_path), list(names["read_logits"](tmp_path))
    assert sorted(image_id for image_id, *_ in found) == list(store.image_ids)
    for image_id, logits, size, classes in found:
        assert (tuple(size), tuple(classes)) == (store.sizes[image_id], HEADER.classes)
        np.testing.assert_array_equal(logits, store.logits("s1.00-none", image_id).astype(np.float32))


def test_safetensors_itself_reads_a_shard(tmp_path: Path) -> None:
    arrays = write(tmp_path)
    with safe_open(tmp_path / "s1.00-none-00000.safetensors", "numpy") as file:
        assert file.metadata()["format"] == "segsearch-logits/1"
        for image_id in file.keys():  # noqa: SIM118  safe_open is no mapping
            np.testing.assert_array_equal(file.get_tensor(image_id), arrays[image_id])


def test_no_shard_is_larger_than_its_limit_and_partials_are_gone(tmp_path: Path) -> None:
    write(tmp_path, shard_bytes=3000)
    assert len(list(tmp_path.iterdir())) > 1
    assert all(path.stat().st_size <= 3000 for path in tmp_path.iterdir())
    assert all(path.suffix == ".safetensors" for path in tmp_path.iterdir())


def test_writing_a_view_again_replaces_its_shards_alone(tmp_path: Path) -> None:
    write(tmp_path, shard_bytes=300)
    write(tmp_path, replace(HEADER, view="s1.00-horizontal"), num_images=2)
    write(tmp_path, num_images=2)
    store = LogitStore(tmp_path)
    assert store.views == ("s1.00-horizontal", "s1.00-none")
    assert store.image_ids == ("a/0.jpg", "a/1.jpg")
    assert not store.has("s1.00-none", ["a/4.jpg"])


@pytest.mark.parametrize("keep", [4, 60, -1])
def test_a_truncated_shard_is_named(tmp_path: Path, keep: int) -> None:
    write(tmp_path)
    path = tmp_path / "s1.00-none-00000.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(TruncatedShard, match=r"s1\.00-none-00000\.safetensors is cut short") as caught:
        LogitStore(tmp_path)
    assert caught.value.path == path
    assert (len(caught.value.image_ids) > 0) == (keep == -1)


def test_what_is_left_of_a_cut_view_is_usable_when_asked_for(tmp_path: Path) -> None:
    write(tmp_path, shard_bytes=400)
    first, second, *_ = sorted(tmp_path.glob("*.safetensors"))
    first.write_bytes(first.read_bytes()[:5])
    second.write_bytes(second.read_bytes()[:-1])
    store = LogitStore(tmp_path, allow_missing=True)
    assert store.lost[first] == ()  # its header is gone: nobody knows which images it had
    [lost] = store.lost[second]
    assert not store.has("s1.00-none", [lost])
    assert set(store.image_ids) < {f"a/{i}.jpg" for i in range(5)}


@pytest.mark.parametrize(
    ("old", "new", "rule"),
    [
        (b'"shape":[3,4,7]', b'"shape":[2,4,7]', r"broken header \(F16 \(2, 4, 7\) in 168 bytes for image 'a/0.jpg'"),
        (b'"dtype":"F16"', b'"dtype":"U16"', r"broken header \(U16 \(3, 4, 7\)"),
        (b"stride", b"strode", "broken header .*stride"),
        (b'"__metadata__":{', b'"__metadata__":[', "broken header"),
        (b"float16", b"float64", "got 'float64'"),
    ],
)
def test_a_header_that_contradicts_itself_is_named(tmp_path: Path, old: bytes, new: bytes, rule: str) -> None:
    write(tmp_path)
    [path] = tmp_path.iterdir()
    path.write_bytes(path.read_bytes().replace(old, new))
    with pytest.raises(ValueError, match=rule):
        LogitStore(tmp_path)


@pytest.mark.parametrize(
    ("field", "value"),
    [("classes", ("sky", "road", "tree")), ("split", "holdout"), ("data_fingerprint", "x"), ("split_fingerprint", "x")],
)
def test_stores_that_do_not_belong_together_are_refused_by_name(tmp_path: Path, field: str, value: Any) -> None:
    write(tmp_path / "one")
    write(tmp_path / "two", replace(HEADER, trial="t1", **{field: value}))
    with pytest.raises(ValueError, match=f"same {field.replace('_', ' ')}.*two"):
        check_together([LogitStore(tmp_path / "one"), LogitStore(tmp_path / "two")])


def test_views_of_two_trials_in_one_folder_are_refused(tmp_path: Path) -> None:
    write(tmp_path)
    write(tmp_path, replace(HEADER, trial="t1", view="s0.75-none"))
    with pytest.raises(ValueError, match="same trial"):
        LogitStore(tmp_path)


@pytest.mark.parametrize(
    ("logits", "rule"),
    [
        (np.zeros((3, 4, 4), np.float32), "float16"),
        (np.zeros((2, 4, 4), np.float16), r"\(3,h,w\)"),
        (np.full((3, 4, 4), np.nan, np.float16), "NaN"),
        *((np.full((3, 4, 4), bad, np.float16), "NaN or infinity") for bad in (-np.nan, np.inf, -np.inf)),
    ],
)
def test_bad_logits_are_refused_with_image_and_trial(tmp_path: Path, logits: np.ndarray, rule: str) -> None:
    with pytest.raises(ValueError, match=f"'b.jpg', trial t0.*{rule}"):
        LogitWriter(tmp_path, HEADER).add("b.jpg", logits, (16, 16))


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs the kernel's count of mapped pages")
def test_reading_many_images_gives_pages_back_and_keeps_arrays_good(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid = np.random.default_rng(0).integers(0, 7, (3, 512, 512)).astype(np.float16)
    with LogitWriter(tmp_path, HEADER) as writer:
        for i in range(32):  # 48 MiB
            writer.add(f"{i}", grid, (512, 512))
    monkeypatch.setattr("trainables.logits.store.RESIDENT_BYTES", 4 * 2**20)
    store, before = LogitStore(tmp_path), resident_bytes()
    arrays = [store.logits("s1.00-none", i) for i in store.image_ids]
    sums = []
    for i, array in zip(store.image_ids, arrays, strict=True):
        sums.append(float(array.astype(np.float32).sum()))
        store.logits("s1.00-none", i)
    assert resident_bytes() - before < 24 * 2**20
    assert set(sums) == {float(grid.astype(np.float32).sum())}


def resident_bytes() -> int:
    """Of mapped files, by the kernel's count."""
    [line] = [text for text in Path("/proc/self/status").read_text().splitlines() if text.startswith("RssFile")]
    return 1024 * int(line.split()[1])


def test_an_unknown_image_or_view_is_named(tmp_path: Path) -> None:
    write(tmp_path)
    with pytest.raises(ValueError, match=r"no logits of image 'z\.jpg'"):
        LogitStore(tmp_path).logits("s1.00-none", "z.jpg")
    with pytest.raises(ValueError, match=r"in view 's2' \(it has views s1\.00-none\)"):
        LogitStore(tmp_path).logits("s2", "a/0.jpg")


def test_an_empty_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="run the logits stage"):
        LogitStore(tmp_path)


def test_a_store_travels_as_its_folder(tmp_path: Path) -> None:
    arrays = write(tmp_path)
    store = LogitStore(tmp_path)
    store.logits("s1.00-none", "a/0.jpg")
    copy = pickle.loads(pickle.dumps(store))  # noqa: S301  our own bytes
    np.testing.assert_array_equal(copy.logits("s1.00-none", "a/3.jpg"), arrays["a/3.jpg"])


@pytest.mark.parametrize("dtype", ["float16", "uint8"])
def test_the_forecast_is_close_to_the_bytes_written(tmp_path: Path, dtype: Any) -> None:
    with LogitWriter(tmp_path, replace(HEADER, dtype=dtype)) as writer:
        for i in range(20):
            writer.add(f"batch_01/{i:04d}.jpg", np.zeros((3, 64, 64), np.float16), (256, 256))
    written = sum(path.stat().st_size for path in tmp_path.iterdir())
    assert abs(forecast_bytes(20, 3, [(64, 64)], dtype) / written - 1) < 0.02
