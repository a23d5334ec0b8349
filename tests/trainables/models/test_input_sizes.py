"""sizes: models of one size, or of multiples, say so before they are run."""

from __future__ import annotations

import pytest
import torch

from trainables.models.backbones import build_backbone
from trainables.models.input_sizes import InputSizes, find_sizes
from trainables.models.segmentor import build_segmentor
from trainables.recipe.recipe import Backbone, Recipe, SegFormerHead


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("test_convnext", InputSizes()),
        ("swin_tiny_patch4_window7_224", InputSizes()),
        ("beit_base_patch16_224", InputSizes()),
        ("hieradet_small", InputSizes()),
        ("maxvit_rmlp_pico_rw_256", InputSizes(multiple_px=256)),
        ("maxvit_tiny_tf_224", InputSizes(multiple_px=224)),
        ("hiera_tiny_224", InputSizes(exact_px=(224, 224))),
        ("mixer_s16_224", InputSizes(exact_px=(224, 224))),
        ("test_vit_relpos", InputSizes(exact_px=(160, 160))),
    ],
)
def test_sizes_are_found_by_trying(name: str, sizes: InputSizes) -> None:
    with torch.device("meta"):
        assert build_backbone(Backbone(name=name, pretrained=False)).sizes == sizes


def test_a_size_that_does_not_fit_is_refused_with_those_that_do() -> None:
    with torch.device("meta"):
        backbone = build_backbone(Backbone(name="maxvit_rmlp_pico_rw_256", pretrained=False))
    backbone.check_size(512, 255)  # padded to 256
    with pytest.raises(ValueError, match=r"multiples of 256 px .*got 512 x 320 px; use 256, 512 or 768"):
        backbone.check_size(512, 320)


def test_the_segmentor_refuses_before_it_runs() -> None:
    model = build_segmentor(
        Recipe(backbone=Backbone(name="test_vit_relpos", pretrained=False), head=SegFormerHead(channels=8)), 3
    )
    assert model(torch.randn(1, 3, 150, 160)).shape == (1, 3, 38, 40)
    with pytest.raises(ValueError, match=r"must be 160 x 160 px for backbone 'test_vit_relpos'.*got 64 x 160 px"):
        model(torch.randn(1, 3, 64, 160))


def test_a_model_of_no_size_tells_why() -> None:
    def refuse(height: int, width: int) -> None:
        raise RuntimeError(f"no image of {height} x {width}")

    with pytest.raises(RuntimeError, match="no image of 224 x 224"):
        find_sizes(refuse, (224, 224))
