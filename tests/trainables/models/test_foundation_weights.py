"""Files as the authors of DINOv2, TIPSv2, DINOv3 and EVA-02 publish them, narrow and made by the test: read in full,
and the features are those of the network that they were made from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from timm.layers.pos_embed import resample_abs_pos_embed
from torch import Tensor

from trainables.models.backbones import build_backbone
from trainables.models.compatibility import FeatureRequest
from trainables.recipe.recipe import Backbone

State = dict[str, Tensor]
NARROW = {"embed_dim": 32, "depth": 3, "num_heads": 2}
LAST = FeatureRequest(depths=(1.0,))
DINOV2, TIPSV2 = "vit_small_patch14_reg4_dinov2", "vit_base_patch14_reg1_tipsv2"
DINOV3, EVA02 = "vit_small_patch16_dinov3", "eva02_tiny_patch14_336"


def as_dinov2(state: State) -> State:
    """The class token has a position, which timm adds to it."""
    theirs = {key: value for key, value in state.items() if key not in ("reg_token", "pos_embed", "cls_token")}
    position = torch.randn(1, 1, state["pos_embed"].shape[2])
    theirs |= {"register_tokens": state["reg_token"], "mask_token": torch.zeros(1, 32)}
    theirs["cls_token"] = state["cls_token"] - position
    return theirs | {"pos_embed": torch.cat([position, state["pos_embed"]], dim=1)}


def as_tipsv2(state: State) -> State:
    """One file for images and text."""
    vision = {f"vision_encoder.{key}": value for key, value in as_dinov2(state).items()}
    return vision | {"text_encoder.scale": torch.zeros(1)}


def as_dinov3(state: State) -> State:
    """Biases of queries, keys and values, all zero, which timm's model does without."""
    names = {"reg_token": "storage_tokens"}
    theirs = {names.get(key, key): value for key, value in state.items()}
    theirs = {key.replace("gamma_1", "ls1.gamma").replace("gamma_2", "ls2.gamma"): v for key, v in theirs.items()}
    theirs |= {f"blocks.{i}.attn.qkv.bias": torch.zeros(96) for i in range(3)}
    return theirs | {"rope_embed.periods": torch.ones(4), "mask_token": torch.zeros(1, 32)}


def as_eva02(state: State) -> State:
    names = {"mlp.fc1_g": "mlp.w1", "mlp.fc1_x": "mlp.w2", "mlp.norm": "mlp.ffn_ln", "mlp.fc2": "mlp.w3"}
    theirs = {}
    for key, value in state.items():
        for ours, written in names.items():
            key = key.replace(ours, written)
        theirs[key.replace("fc_norm.", "norm.")] = value
    return theirs | {"mask_token": torch.zeros(1, 1, 32), "lm_head.weight": torch.zeros(8, 32)}


@pytest.fixture(autouse=True)
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda name, **kwargs: whole(name, **{**NARROW, **kwargs}))


def published(name: str, written: Callable[[State], State], folder: Path, **kwargs: Any) -> tuple[Any, Backbone]:
    """A random network, every parameter of it, and a recipe's section that names its file."""
    torch.manual_seed(3)
    model = timm.create_model(name, **kwargs).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.2)
    path = folder / "w.pth"
    torch.save(written(model.state_dict()), path)
    return model, Backbone(name=name, weights_file=str(path))


@pytest.mark.parametrize(
    ("name", "written", "side_px"),
    [(DINOV2, as_dinov2, 112), (TIPSV2, as_tipsv2, 112), (DINOV3, as_dinov3, 96), (EVA02, as_eva02, 336)],
)
def test_a_published_file_gives_the_features_of_its_network(
    name: str, written: Callable[[State], State], side_px: int, tmp_path: Path
) -> None:
    model, cfg = published(name, written, tmp_path, **({} if name == EVA02 else {"dynamic_img_size": True}))
    backbone = build_backbone(cfg, LAST).eval()
    assert len(backbone.load_report.loaded) == len(backbone.body.state_dict())
    image = torch.randn(1, 3, side_px, side_px)
    [theirs] = model.forward_intermediates(image, [2], intermediates_only=True)
    [ours] = backbone.body.model.forward_intermediates(image, indices=[2], intermediates_only=True)
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize(("name", "written"), [(DINOV2, as_dinov2), (TIPSV2, as_tipsv2)])
def test_positions_of_another_grid_are_resized_and_registers_are_not(
    name: str, written: Callable[[State], State], tmp_path: Path
) -> None:
    model, cfg = published(name, written, tmp_path, img_size=56)
    backbone = build_backbone(cfg, LAST)
    own = backbone.body.model
    grid = own.patch_embed.grid_size
    wanted = resample_abs_pos_embed(model.pos_embed, new_size=list(grid), num_prefix_tokens=0)
    torch.testing.assert_close(own.pos_embed, wanted)
    torch.testing.assert_close(own.reg_token, model.reg_token)
    torch.testing.assert_close(own.cls_token, model.cls_token)


def test_patches_of_another_size_are_resized(tmp_path: Path) -> None:
    """As EVA-02's authors do for segmentation, from 14 px to 16."""
    _, cfg = published(DINOV2, as_dinov2, tmp_path, patch_size=16, img_size=592)
    backbone = build_backbone(cfg, LAST)
    assert "model.patch_embed.proj.weight" in backbone.load_report.resized
    assert backbone.body.model.patch_embed.proj.weight.shape == (32, 3, 14, 14)
