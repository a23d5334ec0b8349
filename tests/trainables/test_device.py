"""How a network is computed: precision by name, float32 products, the layout in memory."""

from __future__ import annotations

from typing import Any, get_args

import pytest
import torch
from torch import nn

from trainables.device import autocast_dtype, float32_products, memory_layout, placed
from trainables.recipe.recipe import Amp

CUDNN: Any = torch.backends.cudnn


def products() -> tuple[str, str, bool]:
    return torch.backends.cuda.matmul.fp32_precision, CUDNN.conv.fp32_precision, CUDNN.benchmark


def test_precision_by_name() -> None:
    assert autocast_dtype("auto", "cpu") is None
    assert autocast_dtype("off", "cuda") is None
    assert autocast_dtype("tf32", "cuda") is None
    assert autocast_dtype("bf16", "cpu") == torch.bfloat16
    assert autocast_dtype("fp16", "cpu") == torch.float16


@pytest.mark.parametrize("amp", get_args(Amp))
def test_products_round_to_tf32_where_asked_for_alone_and_until_the_end(amp: Amp) -> None:
    before = products()
    wanted = "tf32" if amp == "tf32" else "ieee"
    with float32_products(amp):
        assert products() == (wanted, wanted, False)
    assert products() == before


def test_filters_lie_channels_last_on_a_gpu_alone() -> None:
    assert memory_layout("cuda:1") is memory_layout(torch.device("cuda")) is torch.channels_last
    assert memory_layout("cpu") is torch.contiguous_format
    assert placed(nn.Conv2d(2, 3, 3), "cpu").weight.is_contiguous()
