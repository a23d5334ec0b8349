"""Rotary positions that are made on the device, against timm's own."""

from __future__ import annotations

import pytest
import torch
from timm.layers.pos_embed_sincos import RotaryEmbeddingDinoV3
from torch import nn

from trainables.models.rotary import DeviceRotary, make_on_device


@pytest.mark.parametrize("options", [{}, {"normalize_coords": "max"}, {"grid_indexing": "xy"}, {"grid_offset": 0.25}])
def test_positions_are_timms(options: dict[str, object]) -> None:
    theirs, ours = (RotaryEmbeddingDinoV3(32, **options) for _ in range(2))
    make_on_device(nn.Sequential(ours))
    assert isinstance(ours, DeviceRotary)
    for shape in ([4, 6], [7, 3]):
        assert torch.equal(ours.get_embed(shape), theirs.get_embed(shape))


def test_augmented_positions_are_drawn_as_timms() -> None:
    theirs, ours = (RotaryEmbeddingDinoV3(32, rescale_coords=2.0).train() for _ in range(2))
    make_on_device(nn.Sequential(ours))
    drawn = []
    for rotary in (theirs, ours):
        torch.manual_seed(0)
        drawn.append(rotary.get_embed([4, 6]))
    assert torch.equal(*drawn)
    assert not torch.equal(drawn[0], theirs.eval().get_embed([4, 6]))
