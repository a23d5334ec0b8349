"""Probabilities against torch's own upsampling."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from factories import make_header, make_store

from analysis.voting.probabilities import probabilities, sampled_probabilities
from trainables.logits.store import LogitStore


def store_of(folder: Path, grids: dict[str, np.ndarray], size: tuple[int, int]) -> LogitStore:
    """One image 'a.jpg' with a view a grid (K,h,w)."""
    for view, grid in grids.items():
        header = make_header(classes="abcdefg"[: len(grid)], view=view, stride=4)
        make_store(folder, header, {"a.jpg": grid}, size)
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


def test_a_temperature_divides_the_logits(tmp_path: Path) -> None:
    logits = noise(3, 8, 8)
    found = probabilities(store_of(tmp_path, {"v": logits}, (32, 40)), ["v"], "a.jpg", temperature=4.0)
    np.testing.assert_allclose(found, by_torch(logits / np.float16(4), (32, 40)), atol=1e-5)  # a power of 2: exact


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


@pytest.mark.parametrize(("dtype", "off"), [("float16", 1e-3), ("uint8", 1e-2)])
def test_scores_that_are_kept_as_logs_come_back_normalised(tmp_path: Path, dtype: str, off: float) -> None:
    """What a mask head gives: in two views, and under class weights, the votes are those of the scores themselves."""
    rng, scores = np.random.default_rng(0), []
    for view in ("u", "v"):
        score = rng.uniform(0, 1, (4, 8, 8)) ** 6  # no probabilities: sums are anything
        scores.append(score / score.sum(0))
        header = make_header(classes="abcd", view=view, dtype=dtype)
        store = make_store(tmp_path, header, {"a.jpg": np.log(scores[-1])}, (8, 8))
    found, expected = probabilities(store, ["u", "v"], "a.jpg"), np.mean(scores, axis=0)
    np.testing.assert_allclose(found, expected, atol=off)
    weights = np.array([2.0, 0.5, 1.0, 0.0])[:, None, None]
    low, high = np.sort(weights * expected, axis=0)[-2:]
    clear = high - low > 4 * off
    np.testing.assert_array_equal((weights * found).argmax(0)[clear], (weights * expected).argmax(0)[clear])
