"""Prediction in tiles: where they lie, how they are blended, and that one tile is the whole image."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from trainables.logits.tiles import tile_starts, tiled_logits
from trainables.logits.view import Tile, View

STRIDE = 4


class Network:
    """Local means, and the mean of all that it sees, so that every tile says something of its own."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, ...]] = []

    def __call__(self, images: Tensor) -> Tensor:  # (B,3,H,W) -> (B,3,H/4,W/4)
        self.seen.append(tuple(images.shape))
        local = functional.avg_pool2d(images.float(), STRIDE)
        return local + images.float().mean((1, 2, 3), keepdim=True)


def image(height: int, width: int, count: int = 1) -> Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (count, 3, height, width), dtype=np.uint8))


@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5, 0.75])
def test_tiles_cover_a_side_and_overlap_by_their_share(overlap: float) -> None:
    for side in range(32, 1600, 32):
        for px in (64, 96, 224, 512):
            starts = tile_starts(side, Tile(px, overlap))
            assert (starts[0], starts[-1]) == (0, max(0, side - px))
            assert all(start % 32 == 0 for start in starts)
            step = max(32, math.floor(px * (1 - overlap) / 32) * 32)
            assert all(0 < after - before <= step for before, after in pairwise(starts))


@pytest.mark.parametrize(("height", "width"), [(64, 64), (32, 64), (32, 32)])
def test_what_one_tile_covers_is_seen_whole(height: int, width: int) -> None:
    network = Network()
    images = image(height, width, 3)
    assert torch.equal(tiled_logits(network, images, Tile(64), 1), Network()(images))
    assert network.seen == [(3, 3, height, width)]


def test_no_more_tiles_than_a_batch_are_seen_at_once() -> None:
    network = Network()
    tiled_logits(network, image(160, 96, 2), Tile(64, 0.5), 4)
    assert {shape[1:] for shape in network.seen} == {(3, 64, 64)}
    assert [shape[0] for shape in network.seen] == [4, 4, 4, 4]


@pytest.mark.parametrize(("height", "width"), [(160, 96), (64, 224), (32, 128)])
def test_blended_logits_are_the_gaussian_mean_of_all_tiles_at_a_place(height: int, width: int) -> None:
    images, tile = image(height, width), Tile(64, 0.5)
    found = tiled_logits(Network(), images, tile, 3)[0].double().numpy()
    tall = min(height, 64)
    total, weights = np.zeros((3, height // STRIDE, width // STRIDE)), np.zeros((height // STRIDE, width // STRIDE))
    for top in tile_starts(height, tile):
        for left in tile_starts(width, tile):
            alone = Network()(images[:, :, top : top + tall, left : left + 64])[0].double().numpy()
            for y in range(tall // STRIDE):
                for x in range(64 // STRIDE):
                    v, u = (y + 0.5) * STRIDE / tall - 0.5, (x + 0.5) * STRIDE / 64 - 0.5  # from the centre, in sides
                    weight = math.exp(-0.5 * (v * v + u * u) * 64)
                    total[:, top // STRIDE + y, left // STRIDE + x] += weight * alone[:, y, x]
                    weights[top // STRIDE + y, left // STRIDE + x] += weight
    np.testing.assert_allclose(found, total / weights, rtol=1e-4)


@pytest.mark.parametrize(
    ("px", "overlap", "message"),
    [(16, 0.25, "use 64"), (100, 0.25, "multiple of 32 px, .*got 100; use 96"), (9000, 0.25, "use 8192"),
     (512, 0.8, "0 to 0.75"), (512, -0.1, "0 to 0.75"), (512, 0.333, "two decimals")],
)  # fmt: skip
def test_tiles_that_no_network_can_see_are_refused(px: int, overlap: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Tile(px, overlap)


@pytest.mark.parametrize("view", [View(tile=Tile(512)), View(0.75, "vertical", 90, Tile(64, 0.0))])
def test_names_of_tiled_views_go_both_ways(view: View) -> None:
    assert View.parse(view.name) == view
    assert view.pose != View(view.scale, view.flip, view.turn).pose
    assert not view.name.startswith(f"{View(view.scale).name}-")


def test_a_name_of_a_wrong_tile_is_an_error() -> None:
    with pytest.raises(ValueError, match="use 96"):
        View.parse("s1.00-t100o25-none")
