"""beit: relative positions of any grid, against timm's own resizing."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import timm
import torch
from timm.layers.pos_embed_rel import resize_rel_pos_bias_table

from trainables.models.beit import BeitFeatures, offset_weights, resize_to

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def model() -> Any:
    torch.manual_seed(0)
    beit = timm.create_model("beit_base_patch16_224", embed_dim=32, depth=2, num_heads=2).eval()
    for block in beit.blocks:
        for parameter in (block.attn.relative_position_bias_table, block.attn.q_bias, block.attn.v_bias):
            torch.nn.init.normal_(parameter, std=0.5)
    return beit


@pytest.mark.filterwarnings("ignore::UserWarning:timm")
@pytest.mark.parametrize("size", [(224, 224), (320, 192), (96, 288)])
def test_features_are_those_of_timm_set_to_the_size(model: Any, size: tuple[int, int]) -> None:
    own = BeitFeatures(copy.deepcopy(model), [0, 1], 16, 16).eval()
    theirs = copy.deepcopy(model)
    theirs.set_input_size(size)
    image = torch.randn(1, 3, *size)
    expected = theirs.forward_intermediates(image, [0, 1], intermediates_only=True)
    for mine, reference in zip(own(image), expected, strict=True):
        torch.testing.assert_close(mine, reference, rtol=1e-4, atol=1e-4)


@pytest.mark.filterwarnings("ignore::UserWarning:timm")
@pytest.mark.parametrize("grid", [(20, 20), (9, 31), (6, 8)])
def test_tables_are_resized_as_timm_resizes_them(grid: tuple[int, int]) -> None:
    table = torch.randn(27 * 27 + 3, 2)
    shape = ((2 * grid[0] - 1) * (2 * grid[1] - 1) + 3, 2)
    rows, columns = (offset_weights(14, side, CPU) for side in grid)
    own = rows @ table[:-3].T.reshape(2, 27, 27) @ columns.T
    expected = resize_rel_pos_bias_table(table, grid, shape, (14, 14))[:-3]
    torch.testing.assert_close(own.flatten(1).T, expected, rtol=1e-3, atol=1e-3)


def test_near_offsets_keep_their_bias() -> None:
    row = offset_weights(14, 40, CPU)[39 - 1]  # offset -1 of -39 to 39
    assert float(row[13 - 1]) == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("grid", [(20, 20), (9, 31), (14, 14)])
def test_no_table_comes_from_the_host(grid: tuple[int, int]) -> None:
    """On the meta device there is nothing to copy to: what is not computed there raises or stays behind."""
    made = resize_to(grid, (14, 14), torch.device("meta"))
    assert {table.device.type for table in made if table is not None} == {"meta"}


def test_one_model_serves_many_sizes(model: Any) -> None:
    own = BeitFeatures(copy.deepcopy(model), [1], 16, 16).eval()
    image = torch.randn(1, 3, 64, 96)
    [before] = own(image)
    own(torch.randn(1, 3, 128, 64))
    torch.testing.assert_close(own(image)[0], before, rtol=0.0, atol=0.0)
