"""Networks rebuilt from timm alone give the logits of the project's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from analysis.bundle.standalone.network import Network, unreadable
from trainables.models.segmentor import build_segmentor
from trainables.models.weights_file import save_weights
from trainables.recipe.recipe import Recipe

SEGFORMER, UPERNET = {"name": "segformer", "channels": 16}, {"name": "upernet", "channels": 16, "aux_channels": 8}
KNET = {"name": "knet", "channels": 16, "num_stages": 2, "aux_channels": 8}
MASKS = {"name": "mask_classification", "channels": 16, "num_queries": 6, "num_layers": 2}
SWIN = "swin_tiny_patch4_window7_224"


def recipe_of(backbone: str, head: dict[str, Any]) -> Recipe:
    return Recipe.model_validate({"backbone": {"name": backbone, "pretrained": False}, "head": head})


@pytest.mark.parametrize(
    ("backbone", "head"),
    [
        ("test_convnext", SEGFORMER),
        ("test_resnet", UPERNET),
        ("test_resnet", {"name": "linear"}),
        ("test_convnext", KNET),
        ("mobilenetv4_conv_small", UPERNET),
        ("vit_tiny_patch16_224", UPERNET),
        ("test_vit", {"name": "linear"}),  # of a plain transformer it reads no pyramid
        pytest.param("vit_small_patch14_dinov2", SEGFORMER, marks=pytest.mark.slow),  # patches that divide no stride
        pytest.param(SWIN, KNET, marks=pytest.mark.slow),
        pytest.param("twins_svt_small", SEGFORMER, marks=pytest.mark.slow),
    ],
)
def test_logits_are_those_of_the_projects_network(backbone: str, head: dict[str, Any], tmp_path: Path) -> None:
    recipe = recipe_of(backbone, head)
    torch.manual_seed(0)
    own = build_segmentor(recipe, 3, pretrained=False).eval()
    for module in own.modules():  # statistics that a fresh network lacks
        if isinstance(module, torch.nn.BatchNorm2d) and module.running_mean is not None:
            module.running_mean.normal_(std=0.1)
    save_weights(tmp_path / "w.safetensors", own.state_dict())
    alone = Network(recipe.model_dump(mode="json"), 3, tmp_path / "w.safetensors").eval()
    for size in ((64, 96), (96, 64)):
        image = torch.randn(2, 3, *size)
        with torch.no_grad():
            torch.testing.assert_close(alone(image), own(image), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("backbone", "head"),
    [
        ("mit_b0", SEGFORMER),
        ("beitv2_base_patch16_224", UPERNET),
        ("vit_tiny_patch16_224", {"name": "segmenter"}),
        ("test_convnext", {"name": "unet"}),
        ("test_convnext", MASKS),
    ],
)
def test_what_is_not_covered_is_named(backbone: str, head: dict[str, Any]) -> None:
    manifest = {"vote": "stacked", "members": [{"recipe": recipe_of(backbone, head).model_dump(mode="json")}]}
    assert unreadable(manifest) == ["a stacked vote", f"{backbone} with the head {head['name']}"]
