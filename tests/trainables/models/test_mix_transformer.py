"""mix_transformer: smp's MiT as a backbone; no weights are downloaded."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from segmentation_models_pytorch.encoders import get_encoder
from timm.layers.drop import DropPath
from torch import nn

from trainables.models.backbones import PyramidBackbone, build_backbone
from trainables.recipe.recipe import Backbone


@pytest.fixture(scope="module")
def encoder() -> nn.Module:
    torch.manual_seed(0)
    return get_encoder("mit_b0").eval()


def on_meta(**fields: float) -> PyramidBackbone:
    with torch.device("meta"):
        return build_backbone(Backbone(name="mit_b0", pretrained=False, **fields))


def test_features_are_those_of_smp(encoder: nn.Module, tmp_path: Path) -> None:
    save_file(encoder.state_dict(), tmp_path / "w.safetensors")
    backbone = build_backbone(Backbone(name="mit_b0", weights_file=str(tmp_path / "w.safetensors"))).eval()
    image = torch.randn(1, 3, 64, 96)
    for own, theirs in zip(backbone(image), encoder(image)[2:], strict=True):
        torch.testing.assert_close(own, theirs)


def test_pretrained_weights_go_the_way_of_smp(
    encoder: nn.Module, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    save_file({**encoder.state_dict(), "head.weight": torch.zeros(2, 2)}, tmp_path / "model.safetensors")
    monkeypatch.setattr(
        "trainables.models.mix_transformer.hf_hub_download",
        lambda repo, file, revision: str(tmp_path / file) if repo == "smp-hub/mit_b0.imagenet" else "",
    )
    backbone = build_backbone(Backbone(name="mit_b0.imagenet"))
    torch.testing.assert_close(backbone.body.model.block1[0].attn.q.weight, encoder.block1[0].attn.q.weight)
    assert backbone.load_report.skipped == ("head.weight",)
    assert str(backbone.load_report).startswith("smp's weights of mit_b0.imagenet: ")


def test_weights_that_cannot_be_had_are_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ValueError, match=r"are not available; tried the Hugging Face hub \(smp-hub/mit_b0.imagenet\)"):
        build_backbone(Backbone(name="mit_b0"))


def test_a_file_of_another_model_is_refused(encoder: nn.Module, tmp_path: Path) -> None:
    wider = {key: value.repeat_interleave(2, dim=0) for key, value in encoder.state_dict().items()}
    save_file(wider, tmp_path / "w.safetensors")
    with pytest.raises(ValueError, match=r"not of 'mit_b0': \d+ of \d+ tensors fit, 0 are missing"):
        build_backbone(Backbone(name="mit_b0", weights_file=str(tmp_path / "w.safetensors")))


@pytest.mark.parametrize("rate", [0.0, 0.3])
def test_drop_path_reaches_the_blocks(rate: float) -> None:
    rates = [m.drop_prob for m in on_meta(drop_path=rate).modules() if isinstance(m, DropPath)]
    assert max(rates, default=0.0) == pytest.approx(rate)


def test_layers_are_the_blocks() -> None:
    layer_of = on_meta().layer_of
    model = "body.model"
    assert layer_of[f"{model}.patch_embed1.proj.weight"] == 0
    assert [layer_of[f"{model}.block{stage}.0.norm1.weight"] for stage in (1, 2, 3, 4)] == [1, 3, 5, 7]
    assert layer_of[f"{model}.patch_embed2.proj.weight"] == 3
    assert layer_of[f"{model}.norm4.weight"] == layer_of[f"{model}.block4.1.mlp.fc2.bias"] == 8


def test_the_stages_own_norms_are_enough() -> None:
    assert not list(on_meta().norms.parameters())
