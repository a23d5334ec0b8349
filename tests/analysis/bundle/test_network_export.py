"""Every format's graphs give the logits of the project's networks, at sizes and batches other than the traced ones."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from narrow_models import narrowed
from torch import nn

from analysis.bundle import network_export, onnx_export
from analysis.bundle.export import BundleFacts, export
from analysis.bundle.graphs import FLOAT16, FLOAT32, Agreement, Graph, MatrixPool, Sizes, compare, offered_sizes
from analysis.bundle.manifest import read_bundle
from analysis.bundle.network_export import HALF, WRITERS, check_format, export_networks, foreign_to_networks
from trainables.models.segmentor import Segmentor, build_segmentor
from trainables.recipe.recipe import Recipe

FACTS = BundleFacts("trash", "data", "split", licences=("CC BY 4.0",))
SEGFORMER, UPERNET = {"name": "segformer", "channels": 16}, {"name": "upernet", "channels": 16, "aux_channels": 8}
KNET = {"name": "knet", "channels": 16, "num_stages": 2, "aux_channels": 8}
MASKS = {"name": "mask_classification", "channels": 16, "num_queries": 6, "num_layers": 3}
EOMT = {"name": "eomt", "channels": 16, "num_queries": 6, "num_blocks": 2}
SLOW = pytest.mark.slow
CROP_PX = 64


def trained(backbone: str, head: dict[str, Any]) -> Segmentor:
    """A network whose logits are spread as those of a trained one."""
    torch.manual_seed(0)
    recipe = Recipe.model_validate({"backbone": {"name": backbone, "pretrained": False}, "head": head})
    network = build_segmentor(recipe, 3, pretrained=False).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None:
            module.running_mean.normal_(std=0.1)
        if isinstance(module, nn.Conv2d) and module.out_channels == 3:
            nn.init.normal_(module.weight)
    return network


def agreement(network: Segmentor, name: str, folder: Path, sizes: Sizes) -> Agreement:
    writer = HALF if name == "half" else WRITERS[name]
    path = folder / f"graph{writer.suffix}"
    writer.write(Graph(network), path, sizes)
    return compare(network, lambda images: writer.run(path, images), sizes.checked(CROP_PX))


@pytest.mark.parametrize(
    ("backbone", "head"),
    [
        ("test_convnext", SEGFORMER),
        ("test_resnet", UPERNET),
        ("test_convnext", KNET),
        ("test_convnext", MASKS),
        pytest.param("mit_b0", SEGFORMER, marks=SLOW),
    ],
)
def test_onnx_gives_the_logits_at_any_size(backbone: str, head: dict[str, Any], tmp_path: Path) -> None:
    network = trained(backbone, head)
    free = offered_sizes(network, CROP_PX)[0]
    found = agreement(network, "onnx", tmp_path, free)
    assert found.within(FLOAT32), found
    assert free.fixed_px is None
    assert len({size[1:] for size in found.sizes}) == 3


def test_onnx_gives_the_logits_of_queries_among_patches(tmp_path: Path) -> None:
    """EoMT over rotary positions, as DINOv3 has them."""
    with narrowed():
        network = trained("vit_tiny_patch16_dinov3_qkvb", EOMT)
    found = agreement(network, "onnx", tmp_path, offered_sizes(network, CROP_PX)[0])
    assert found.within(FLOAT32), found
    assert {size[0] for size in found.sizes} == {1, 2, 3}


@pytest.mark.parametrize("size", [0, 1], ids=["free", "fixed"])
def test_learnt_positions_are_refused_by_onnx_with_the_format_that_works(size: int, tmp_path: Path) -> None:
    network = trained("test_vit", EOMT)
    sizes = offered_sizes(network, CROP_PX)[size]
    with pytest.raises(ValueError, match=r"got aten::_upsample_bicubic2d_aa with test_vit.*use --format torch_export"):
        onnx_export.write_onnx(Graph(network), tmp_path / "a.onnx", sizes)


def test_half_precision_is_near(tmp_path: Path) -> None:
    found = agreement(trained("test_convnext", SEGFORMER), "half", tmp_path, Sizes(32))
    assert found.within(FLOAT16), found
    assert found.difference > 1e-5  # it is half precision


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backbone", "head"),
    [("test_convnext", SEGFORMER), ("test_resnet", UPERNET), ("test_vit", EOMT), ("test_vit", {"name": "segmenter"})],
)
def test_torch_export_gives_the_logits_at_any_size(backbone: str, head: dict[str, Any], tmp_path: Path) -> None:
    found = agreement(trained(backbone, head), "torch_export", tmp_path, Sizes(32))
    assert found.within(FLOAT32), found


@pytest.mark.parametrize("bins", [1, 2, 3, 6])
@pytest.mark.parametrize("size", [(1, 1), (2, 3), (5, 7), (6, 12), (16, 31)])
def test_pooling_by_matrices_is_adaptive_pooling(bins: int, size: tuple[int, int]) -> None:
    maps = torch.randn(2, 3, *size)
    torch.testing.assert_close(MatrixPool(bins)(maps), nn.AdaptiveAvgPool2d(bins)(maps))


def test_what_differs_is_seen() -> None:
    network = trained("test_resnet", SEGFORMER)
    with torch.no_grad():
        found = compare(network, lambda images: [_logits(network, image) + 0.01 for image in images], [(1, 64, 64)])
    assert found.difference == pytest.approx(0.01, rel=1e-3)
    assert not found.within(FLOAT32)
    assert not Agreement(float("nan"), 1.0, ()).within(FLOAT32)
    assert not Agreement(0.0, 0.99, ()).within(FLOAT32)


def _logits(network: Segmentor, image: Any) -> Any:
    with torch.no_grad():
        return Graph(network)(torch.from_numpy(image)).numpy()


def test_an_operator_that_onnx_lacks_is_named(tmp_path: Path) -> None:
    network = trained("test_resnet", SEGFORMER)
    network.head.fuse = nn.Sequential(network.head.fuse, _Special())
    with pytest.raises(ValueError, match=r"got aten::special_i0e with test_resnet.*; use --format torch_export"):
        onnx_export.write_onnx(Graph(network), tmp_path / "a.onnx", Sizes(32))


class _Special(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.special.i0e(x)


def test_missing_packages_come_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_export, "PACKAGES", ("onnx", "no_such_package"))
    with pytest.raises(ValueError, match="got no no_such_package; install them: pip install onnx no_such_package"):
        check_format("onnx", fp16=False)


def test_the_networks_of_a_bundle_come_with_how_they_vote(tiny_run: Any, tmp_path: Path) -> None:
    bundle = read_bundle(export(FACTS, tiny_run.ensemble, tiny_run.weights, tmp_path / "bundle"))
    out = tmp_path / "onnx"
    said = export_networks(bundle, out, "onnx")
    assert sorted(path.name for path in out.iterdir()) == ["member-0.onnx", "member-1.onnx", "networks.json"]
    assert foreign_to_networks(out) == []
    assert len(said) == 2
    assert "member-1.onnx: largest difference of a logit" in said[1]
    index, manifest = json.loads((out / "networks.json").read_text(encoding="utf-8")), bundle.manifest
    assert index["licences"] == ["images of trash: CC BY 4.0"]
    assert index["weights"] == [list(row) for row in manifest.weights]
    for about, member in zip(index["members"], manifest.members, strict=True):
        assert (about["trial"], about["temperature"]) == (member.trial, member.temperature)
        [network] = about["networks"]
        assert (network["stride"], network["side_multiple_px"], network["fixed_size_px"]) == (4, 32, None)
        assert network["label_agreement"] >= 0.999


def test_a_graph_that_differs_leaves_nothing(tiny_run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = read_bundle(export(FACTS, tiny_run.ensemble, tiny_run.weights, tmp_path / "bundle"))
    honest = WRITERS["onnx"]
    shifted = dataclasses.replace(honest, run=lambda path, images: [np.roll(x, 1) for x in honest.run(path, images)])
    monkeypatch.setitem(network_export.WRITERS, "onnx", shifted)
    with pytest.raises(ValueError, match=r"member-0\.onnx must give the logits .* use --format torch_export"):
        export_networks(bundle, tmp_path / "onnx", "onnx")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle"]


def test_a_size_that_cannot_be_free_is_fixed_and_said(
    tiny_run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = read_bundle(export(FACTS, tiny_run.ensemble, tiny_run.weights, tmp_path / "bundle"))
    honest = WRITERS["onnx"]

    def write(graph: Graph, path: Path, sizes: Sizes) -> None:
        if sizes.fixed_px is None:
            raise ValueError("no free size")
        honest.write(graph, path, sizes)

    monkeypatch.setitem(network_export.WRITERS, "onnx", dataclasses.replace(honest, write=write))
    said = export_networks(bundle, tmp_path / "onnx", "onnx")
    assert "at 3 x 32 x 32 px" in said[0].replace("1 x 32 x 32, 2 x 32 x 32, ", "at ")
    assert said[0].endswith("; at 32 x 32 px alone (for others: no free size)")
