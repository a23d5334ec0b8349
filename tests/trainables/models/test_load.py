"""A network is checked against its weights before memory is taken for it."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest
import torch

from trainables.models.load import load_model
from trainables.models.weights_file import save_weights
from trainables.recipe.recipe import Backbone, KNetHead, Recipe, SegFormerHead, UPerNetHead


@pytest.mark.parametrize(
    "head", [UPerNetHead(channels=4096, aux_channels=4096), KNetHead(channels=4096, num_stages=16)]
)
def test_a_network_of_tens_of_gigabytes_is_refused_without_them(tmp_path: Path, head: UPerNetHead | KNetHead) -> None:
    recipe = Recipe(backbone=Backbone(name="test_resnet", pretrained=False), head=head)
    save_weights(tmp_path / "w.safetensors", {"a": torch.zeros(3)})
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ValueError, match=f"must hold the weights of test_resnet with the head {head.name}, got others"):
        load_model(recipe, 3, tmp_path / "w.safetensors")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**19  # KiB


@pytest.mark.parametrize(
    ("model", "key"), [(UPerNetHead, "channels"), (KNetHead, "num_stages"), (SegFormerHead, "channels")]
)
def test_sizes_of_heads_are_bounded(model: type[UPerNetHead], key: str) -> None:
    with pytest.raises(ValueError, match=f"{key}\n.*less than or equal to"):
        model.model_validate({key: 10**9})
