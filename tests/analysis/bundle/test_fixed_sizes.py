"""Networks that a format cannot have at every size: written at one size and said, or refused with what works."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from narrow_models import narrowed
from torch import nn

from analysis.bundle import network_export
from analysis.bundle.export import BundleFacts, export
from analysis.bundle.graphs import FLOAT32, Graph, Sizes, compare, offered_sizes
from analysis.bundle.manifest import Bundle, read_bundle
from analysis.bundle.network_export import WRITERS, export_networks
from trainables.models.input_sizes import InputSizes
from trainables.models.segmentor import Segmentor, build_segmentor
from trainables.recipe.recipe import Recipe

SWIN, TWINS, VIT = "swin_tiny_patch4_window7_224", "twins_svt_small", "vit_tiny_patch16_224"
CROP_PX = 128  # torch.onnx's roll is wrong where Swin rolls a map of 2 x 2 by 3, as it does at 64 px
FIXED = Sizes(32, (CROP_PX, CROP_PX))


def narrow(backbone: str) -> Segmentor:
    """timm's backbone with fewer channels and blocks, under a small head whose logits are spread."""
    torch.manual_seed(0)
    head = {"name": "segformer", "channels": 16}
    recipe = Recipe.model_validate({"backbone": {"name": backbone, "pretrained": False}, "head": head})
    with narrowed():
        network = build_segmentor(recipe, 3, pretrained=False).eval()
    for module in network.head.modules():
        if isinstance(module, nn.Conv2d) and module.out_channels == 3:
            nn.init.normal_(module.weight)
    return network


@pytest.fixture
def bundle(tiny_run: Any, tmp_path: Path) -> Bundle:
    facts = BundleFacts("trash", "data", "split")
    return read_bundle(export(facts, tiny_run.ensemble, tiny_run.weights, tmp_path / "bundle"))


def with_network(network: Segmentor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every member of the bundle is this network, trained on crops of 32 px."""
    monkeypatch.setattr(network_export, "load_model", lambda *_: network)


@pytest.mark.slow
@pytest.mark.parametrize("backbone", [SWIN, TWINS])
@pytest.mark.parametrize("name", ["onnx", "torch_export"])
def test_a_file_of_one_size_gives_the_networks_logits_there(backbone: str, name: str, tmp_path: Path) -> None:
    network, writer = narrow(backbone), WRITERS[name]
    path = tmp_path / f"graph{writer.suffix}"
    writer.write(Graph(network), path, FIXED)
    found = compare(network, lambda images: writer.run(path, images), FIXED.checked(CROP_PX))
    assert found.within(FLOAT32), found
    assert {size[1:] for size in found.sizes} == {(CROP_PX, CROP_PX)}


@pytest.mark.slow
@pytest.mark.parametrize("backbone", [SWIN, TWINS])
def test_windows_are_exported_by_torch_at_the_crop_alone(
    backbone: str, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_network(narrow(backbone), monkeypatch)
    said = export_networks(bundle, tmp_path / "out", "torch_export")
    reason = f"got {backbone}, whose "
    assert all("at 32 x 32 px alone (for others: torch.export must prove" in line and reason in line for line in said)
    index = json.loads((tmp_path / "out" / "networks.json").read_text(encoding="utf-8"))
    networks = [network for member in index["members"] for network in member["networks"]]
    assert [network["fixed_size_px"] for network in networks] == [[32, 32], [32, 32]]
    assert min(network["label_agreement"] for network in networks) >= FLOAT32.agreement


def test_an_operator_that_onnx_lacks_is_named_with_the_format_that_has_it(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ViT's position embeddings are resampled bicubically; no size spares that."""
    with_network(narrow(VIT), monkeypatch)
    with pytest.raises(ValueError, match=rf"got aten::_upsample_bicubic2d_aa with {VIT}.*; use --format torch_export"):
        export_networks(bundle, tmp_path / "out", "onnx")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle"]


@pytest.mark.slow
def test_the_format_that_is_named_has_it(bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_network(narrow(VIT), monkeypatch)
    said = export_networks(bundle, tmp_path / "out", "torch_export")
    assert not any("alone" in line for line in said)


def test_a_backbone_of_one_size_is_written_at_it_and_the_index_says_so(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = narrow("test_resnet")
    network.backbone.sizes = InputSizes(exact_px=(64, 96))
    assert offered_sizes(network, CROP_PX) == [Sizes(32, (64, 96))]
    with_network(network, monkeypatch)
    [line, _] = export_networks(bundle, tmp_path / "out", "onnx")
    assert line.endswith("; at 64 x 96 px alone (its backbone takes no other)")
    index = json.loads((tmp_path / "out" / "networks.json").read_text(encoding="utf-8"))
    assert index["members"][0]["networks"][0]["fixed_size_px"] == [64, 96]
