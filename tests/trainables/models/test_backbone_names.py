"""names against timm's own registry, and without importing it."""

from __future__ import annotations

import subprocess
import sys

import pytest
import timm
from segmentation_models_pytorch.encoders.mix_transformer import mix_transformer_encoders

from trainables.models.backbone_names import MIX_TRANSFORMERS, backbone_files, backbone_tags, check_backbone_name


def test_names_are_those_of_timm_and_the_mix_transformers_of_smp() -> None:
    assert set(backbone_tags()) == set(timm.list_models()) | set(mix_transformer_encoders)


def test_files_are_those_that_timm_takes_them_from() -> None:
    files = {name: timm.models.model_entrypoint(name).__module__.split(".")[-1] for name in timm.list_models()}
    assert backbone_files() == files | dict.fromkeys(MIX_TRANSFORMERS, "mix_transformer")


def test_tags_of_the_mix_transformers_are_those_of_smp() -> None:
    for name in MIX_TRANSFORMERS:
        assert backbone_tags()[name] == set(mix_transformer_encoders[name]["pretrained_settings"])


def test_every_name_and_tag_of_timm_is_accepted() -> None:
    for name in timm.list_models(include_tags=True):
        check_backbone_name(name)


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("convnxt_tiny", "convnext_tiny"),
        ("mit_b6", "mit_b5"),
        ("convnxt_tiny.fb_in22k", "convnext_tiny"),
        ("swin_base_patch4_window7", "swin_base_patch4_window7_224"),
        ("convnext_tiny.fb_in22k_ft_in2k", "convnext_tiny.fb_in22k_ft_in1k"),
    ],
)
def test_unknown_names_are_told_with_the_nearest_three(name: str, nearest: str) -> None:
    with pytest.raises(ValueError, match="nearest: ") as error:
        check_backbone_name(name)
    offered = str(error.value).split("nearest: ")[1].split(", ")
    assert nearest in offered
    assert len(offered) == 3


def test_tag_of_a_model_without_weights_is_told() -> None:
    with pytest.raises(ValueError, match="no tagged weights"):
        check_backbone_name(min(name for name, tags in backbone_tags().items() if not tags) + ".tag")


def test_neither_torch_nor_timm_is_imported() -> None:
    code = (
        "import sys; from trainables.models.backbone_names import check_backbone_name as check; check('convnext_atto');"
        "assert not {'torch', 'timm'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=180)
