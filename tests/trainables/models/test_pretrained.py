"""weights: files that the test makes; nothing is downloaded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor

from trainables.models.backbones import build_backbone
from trainables.models.pretrained import load_file
from trainables.recipe.recipe import Backbone

NAME = "test_convnext"


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    torch.manual_seed(7)
    return timm.create_model(NAME).state_dict()


def write(state: dict[str, Tensor], path: Path) -> Backbone:
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save({"state_dict": state}, path)
    return Backbone(name=NAME, weights_file=str(path))


@pytest.mark.parametrize("file", ["w.safetensors", "w.pth"])
def test_a_file_of_the_whole_model_fills_the_extractor(state: dict[str, Tensor], file: str, tmp_path: Path) -> None:
    backbone = build_backbone(write(state, tmp_path / file))
    torch.testing.assert_close(
        backbone.body["stages_3"].blocks[0].conv_dw.weight, state["stages.3.blocks.0.conv_dw.weight"]
    )
    assert len(backbone.load_report.loaded) == len(backbone.body.state_dict())
    assert "head.fc.weight" in backbone.load_report.skipped
    assert "head.fc.weight" in str(backbone.load_report)


def test_a_file_without_a_classifier_is_enough(state: dict[str, Tensor], tmp_path: Path) -> None:
    headless = {key: value for key, value in state.items() if not key.startswith("head.")}
    assert build_backbone(write(headless, tmp_path / "w.pth")).load_report.skipped == ()


def test_the_authors_own_names_are_understood(state: dict[str, Tensor], tmp_path: Path) -> None:
    theirs = {
        key.replace("stem.", "downsample_layers.0.")
        .replace(".blocks.", ".")
        .replace("conv_dw", "dwconv")
        .replace("mlp.fc", "pwconv"): value
        for key, value in state.items()
        if not key.startswith("head.")
    }
    theirs = {
        f"downsample_layers.{key[7]}{key.partition('downsample')[2]}" if ".downsample." in key else key: value
        for key, value in theirs.items()
    }
    backbone = build_backbone(write(theirs, tmp_path / "w.pth"))
    torch.testing.assert_close(backbone.body["stem_0"].weight, state["stem.0.weight"])


def test_position_tables_of_another_window_are_resized(tmp_path: Path) -> None:
    name = "swin_tiny_patch4_window7_224"
    tiny = {"embed_dim": 8, "depths": (1, 1, 1, 1), "num_heads": (1, 1, 1, 1)}
    save_file(timm.create_model(name, window_size=5, **tiny).state_dict(), tmp_path / "w.safetensors")
    extractor = timm.create_model(name, features_only=True, **tiny)
    report = load_file(extractor, timm.create_model(name, **tiny), tmp_path / "w.safetensors", name)
    assert len(report.resized) == 4
    assert all(key.endswith("relative_position_bias_table") for key in report.resized)


@pytest.mark.parametrize(
    ("in_chans", "expected"), [(1, lambda w: w.sum(1, keepdim=True)), (4, lambda w: w[:, [0, 1, 2, 0]] * 3 / 4)]
)
def test_rgb_filters_are_adapted_to_other_channels(
    state: dict[str, Tensor], in_chans: int, expected: Callable[[Tensor], Tensor], tmp_path: Path
) -> None:
    backbone = build_backbone(write(state, tmp_path / "w.safetensors"), in_chans=in_chans)
    torch.testing.assert_close(backbone.body["stem_0"].weight, expected(state["stem.0.weight"]))
    assert backbone.load_report.resized == ("stem_0.weight",)


def test_a_plain_transformer_takes_a_file_of_another_size(tmp_path: Path) -> None:
    whole = timm.create_model("test_vit", img_size=96)
    save_file(whole.state_dict(), tmp_path / "w.safetensors")
    backbone = build_backbone(Backbone(name="test_vit", weights_file=str(tmp_path / "w.safetensors")))
    torch.testing.assert_close(backbone.body.model.blocks[2].mlp.fc1.weight, whole.blocks[2].mlp.fc1.weight)
    assert backbone.load_report.resized == ("model.pos_embed",)


def test_a_file_of_another_model_is_refused_with_counts(tmp_path: Path) -> None:
    other = write(timm.create_model("test_resnet").state_dict(), tmp_path / "w.pth")
    with pytest.raises(ValueError, match=r"not of 'test_convnext': 0 of \d+ .*; give a file of 'test_convnext'"):
        build_backbone(other)


def test_a_file_of_a_wider_sibling_is_refused_with_counts(tmp_path: Path) -> None:
    other = write(timm.create_model("test_convnext2").state_dict(), tmp_path / "w.pth")
    with pytest.raises(ValueError, match=r"\d+ of \d+ tensors fit, .* have another shape \("):
        build_backbone(other)


@pytest.mark.parametrize("file", ["w.safetensors", "w.pth"])
def test_a_file_cut_short_is_told(state: dict[str, Tensor], file: str, tmp_path: Path) -> None:
    cfg = write(state, tmp_path / file)
    (tmp_path / file).write_bytes((tmp_path / file).read_bytes()[:2000])
    with pytest.raises(ValueError, match=f"{file} cannot be read"):
        build_backbone(cfg)


def test_a_pickle_that_runs_code_is_not_read(tmp_path: Path) -> None:
    torch.save({"state_dict": Path("x")}, tmp_path / "w.pth")
    with pytest.raises(ValueError, match="cannot be read"):
        build_backbone(Backbone(name=NAME, weights_file=str(tmp_path / "w.pth")))


@pytest.mark.parametrize(("file", "told"), [("gone.pth", "does not exist"), ("w.npz", "must end in one of")])
def test_missing_and_unknown_files_are_told(file: str, told: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=told):
        build_backbone(Backbone(name=NAME, weights_file=str(tmp_path / file)))


def test_weights_file_without_pretrained_is_refused() -> None:
    with pytest.raises(ValueError, match="weights_file must not be given with pretrained: false"):
        Backbone(name=NAME, pretrained=False, weights_file="w.pth")


def test_weights_that_cannot_be_had_are_told_with_the_ways_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ValueError, match=r"tried the Hugging Face hub \(timm/test_convnext") as error:
        build_backbone(Backbone(name=NAME))
    assert "model.weights_file" in str(error.value)
    assert "model.pretrained: false" in str(error.value)


def test_pretrained_weights_go_the_way_of_timm(
    monkeypatch: pytest.MonkeyPatch, state: dict[str, Tensor], tmp_path: Path
) -> None:
    """They come from the hub's cache, here one that holds the weights of this model."""
    model = tmp_path / f"models--{timm.get_pretrained_cfg(NAME).hf_hub_id.replace('/', '--')}"
    commit = "0" * 40
    (model / "refs").mkdir(parents=True)
    (model / "refs" / "main").write_text(commit)
    (model / "snapshots" / commit).mkdir(parents=True)
    save_file(state, model / "snapshots" / commit / "model.safetensors")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    backbone = build_backbone(Backbone(name=NAME))
    torch.testing.assert_close(backbone.body["stem_0"].weight, state["stem.0.weight"])
    assert backbone.load_report.skipped == tuple(sorted(key for key in state if key.startswith("head.")))


def test_models_without_weights_are_told() -> None:
    with pytest.raises(ValueError, match=r"are not available; tried nothing: timm has no weights"):
        build_backbone(Backbone(name="cspresnet50d"))
