"""Probabilities against torch's own upsampling, and the fitting sample against the full count."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from analysis.pixels import probabilities, sample_pixels, sample_share, sampled_probabilities
from trainables.logits import LogitHeader, LogitStore, LogitWriter


def store_of(folder: Path, grids: dict[str, np.ndarray], size: tuple[int, int]) -> LogitStore:
    """One image 'a.jpg' with a view a grid (K,h,w)."""
    for view, grid in grids.items():
        header = LogitHeader(
            trial="t", recipe_hash="r", family="f", split="val", view=view, classes=tuple("abcdefg"[: len(grid)]),
            stride=4, data_fingerprint="d", split_fingerprint="s", checkpoint_fingerprint="c",
        )  # fmt: skip
        with LogitWriter(folder, header) as writer:
            writer.add("a.jpg", grid, size)
    return LogitStore(folder)


def noise(num_classes: int, height: int, width: int, seed: int = 0) -> np.ndarray:
    return (8 * np.random.default_rng(seed).normal(size=(num_classes, height, width))).astype(np.float16)


def by_torch(grid: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    logits = torch.from_numpy(grid.astype(np.float32))[None]
    up = torch.nn.functional.interpolate(logits, size, mode="bilinear", align_corners=False)
    out: np.ndarray = up.softmax(1)[0].numpy()
    return out


@pytest.mark.parametrize("grid", [(16, 16), (9, 13), (1, 1), (3, 50), (40, 40)])
@pytest.mark.parametrize("size", [(64, 64), (31, 45), (20, 20), (1, 3)])
def test_upsampling_then_softmax_equals_torch(tmp_path: Path, grid: tuple[int, int], size: tuple[int, int]) -> None:
    logits = noise(5, *grid)
    found = probabilities(store_of(tmp_path, {"v": logits}, size), ["v"], "a.jpg")
    np.testing.assert_allclose(found, by_torch(logits, size), atol=1e-5)


def test_views_of_different_grids_are_averaged(tmp_path: Path) -> None:
    grids = {"u": noise(3, 8, 8, 1), "v": noise(3, 12, 10, 2)}
    found = probabilities(store_of(tmp_path, grids, (32, 40)), ["u", "v"], "a.jpg")
    expected = (by_torch(grids["u"], (32, 40)) + by_torch(grids["v"], (32, 40))) / 2
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_extreme_logits_stay_probabilities(tmp_path: Path) -> None:
    logits = noise(4, 6, 6)
    logits[0], logits[1] = 60000, -60000
    found = probabilities(store_of(tmp_path, {"v": logits}, (24, 24)), ["v"], "a.jpg")
    np.testing.assert_allclose(found.sum(0), 1, atol=1e-6)
    np.testing.assert_allclose(found[0], 1, atol=1e-6)


def test_memory_that_is_given_is_written_whole(tmp_path: Path) -> None:
    store = store_of(tmp_path, {"v": noise(3, 8, 8)}, (32, 32))
    memory = np.full((3, 32, 32), 7.0, np.float32)
    assert probabilities(store, ["v"], "a.jpg", memory) is memory
    np.testing.assert_array_equal(memory, probabilities(store, ["v"], "a.jpg"))


def test_sampled_pixels_are_those_of_the_whole_image(tmp_path: Path) -> None:
    store = store_of(tmp_path, {"v": noise(5, 9, 7)}, (36, 28))
    flat = np.array([0, 5, 27, 28, 500, 1007])
    found = np.empty((5, len(flat)), np.float32)
    sampled_probabilities(store, "v", "a.jpg", flat, found)
    np.testing.assert_allclose(found, probabilities(store, ["v"], "a.jpg").reshape(5, -1)[:, flat], atol=1e-6)


def test_logits_that_are_not_finite_are_named(tmp_path: Path) -> None:
    store = store_of(tmp_path, {"v": noise(3, 4, 4)}, (16, 16))
    path = tmp_path / "v-00000.safetensors"
    path.write_bytes(path.read_bytes()[:-2] + np.float16(np.nan).tobytes())  # what another tool may have written
    with pytest.raises(ValueError, match=r"image 'a\.jpg', view 'v' of trial t"):
        probabilities(store, ["v"], "a.jpg")


def test_a_sample_has_no_ignored_pixel_and_depends_on_the_name_alone() -> None:
    label = np.random.default_rng(0).integers(0, 3, (40, 50)).astype(np.uint8)
    label[label == 2] = 255
    flat = sample_pixels(label, 0.25, 3, "a.jpg")
    assert (label.reshape(-1)[flat] != 255).all()
    assert len(np.unique(flat)) == len(flat) == pytest.approx(0.25 * (label != 255).sum(), abs=1)
    np.testing.assert_array_equal(flat, sample_pixels(label, 0.25, 3, "a.jpg"))
    assert not np.array_equal(flat, sample_pixels(label, 0.25, 3, "b.jpg"))


def test_the_sample_estimates_every_count_without_bias() -> None:
    rng = np.random.default_rng(1)
    labels = [rng.choice(4, (n, 30), p=[0.7, 0.2, 0.08, 0.02]).astype(np.uint8) for n in (20, 60)]  # ragged sizes
    full = np.bincount(np.concatenate([label.ravel() for label in labels]), minlength=4)
    share, counts = 0.1, []
    for seed in range(40):
        drawn = [label.ravel()[sample_pixels(label, share, seed, f"{i}")] for i, label in enumerate(labels)]
        counts.append(np.bincount(np.concatenate(drawn), minlength=4) / share)
    error = np.std(counts, axis=0) / np.sqrt(len(counts))
    assert (np.abs(np.mean(counts, axis=0) - full) < 4 * error + 1e-9).all()


def test_the_share_keeps_the_sample_within_its_bytes() -> None:
    share = sample_share(2**20, 10**6, 11, [4, 2])
    assert share * 10**6 * 11 * 4 * (4 + 2 + 2) < 2**20
    assert sample_share(2**30, 10, 11, [1]) == 1.0
