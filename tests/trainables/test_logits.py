"""The logit store: what is written comes back, bit for bit, and what does not belong together is refused by
name."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open

from trainables.logits import LogitHeader, LogitStore, LogitWriter, TruncatedShard, check_together, forecast_bytes

HEADER = LogitHeader(
    trial="t0",
    recipe_hash="abc",
    family="mit",
    split="val",
    view="s1.00-none",
    classes=("road", "sky", "tree"),
    stride=4,
    data_fingerprint="d",
    split_fingerprint="s",
    checkpoint_fingerprint="c",
)


def write(
    folder: Path, header: LogitHeader = HEADER, num_images: int = 5, shard_bytes: int = 2000
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


def test_safetensors_itself_reads_a_shard(tmp_path: Path) -> None:
    arrays = write(tmp_path)
    with safe_open(tmp_path / "s1.00-none-00000.safetensors", "numpy") as file:
        assert file.metadata()["format"] == "segsearch-logits/1"
        for image_id in file.keys():  # noqa: SIM118  safe_open is no mapping
            np.testing.assert_array_equal(file.get_tensor(image_id), arrays[image_id])


def test_no_shard_is_larger_than_its_limit_and_partials_are_gone(tmp_path: Path) -> None:
    write(tmp_path, shard_bytes=1200)
    assert all(path.stat().st_size < 1200 + 2000 for path in tmp_path.iterdir())  # 2000: the JSON header
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
    ],
)
def test_bad_logits_are_refused_with_image_and_trial(tmp_path: Path, logits: np.ndarray, rule: str) -> None:
    with pytest.raises(ValueError, match=f"'b.jpg', trial t0.*{rule}"):
        LogitWriter(tmp_path, HEADER).add("b.jpg", logits, (16, 16))


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


def test_the_forecast_is_close_to_the_bytes_written(tmp_path: Path) -> None:
    with LogitWriter(tmp_path, HEADER) as writer:
        for i in range(20):
            writer.add(f"batch_01/{i:04d}.jpg", np.zeros((3, 64, 64), np.float16), (256, 256))
    written = sum(path.stat().st_size for path in tmp_path.iterdir())
    assert abs(forecast_bytes(20, 3, [(64, 64)]) / written - 1) < 0.02
