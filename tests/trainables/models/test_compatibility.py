"""pairs: which head takes which backbone, against timm's own account of its models."""

from __future__ import annotations

import contextlib
import subprocess
import sys

import pytest
import timm
import torch
from pydantic import TypeAdapter

from trainables.models.backbone_names import backbone_files
from trainables.models.compatibility import PLAIN_FILES, PLAIN_HEADS, check_pair, check_patches, is_plain, patch_px
from trainables.models.heads import HEADS, features_read
from trainables.recipe.recipe import Head

# The smallest of each file of plain models, and of hierarchies of many kinds.
SAMPLE = [
    *("beit_base_patch16_224", "cait_xxs24_224", "convit_tiny", "convmixer_768_32", "deepseek_vit_412m"),
    *("deit_tiny_patch16_224", "eva02_tiny_patch14_224", "gemma4_vit_167m", "mixer_s32_224", "qwen3_vit_88m"),
    *("naflexvit_base_patch16_gap", "samvit_base_patch16", "tnt_s_legacy_patch16_224", "vitamin_small_224"),
    *(
        "vit_tiny_patch16_224",
        "vit_small_patch14_reg4_dinov2",
        "vit_tiny_r_s16_p8_224",
        "test_vit_relpos",
        "xcit_nano_12_p16_224",
    ),
    *("test_convnext", "convnextv2_atto", "swin_tiny_patch4_window7_224", "swinv2_tiny_window8_256", "twins_svt_small"),
    *("pvt_v2_b0", "caformer_s18", "nextvit_small", "maxvit_rmlp_pico_rw_256", "hiera_tiny_224", "hieradet_small"),
    *("hrnet_w18_small", "resnet18", "efficientnet_b0", "mvitv2_tiny", "volo_d1_224", "crossvit_tiny_240", "levit_128"),
]


@pytest.mark.parametrize("name", SAMPLE)
def test_plain_models_are_those_with_one_stride_in_timm_and_patches_are_its_own(name: str) -> None:
    with torch.device("meta"):
        features = timm.create_model(name).feature_info
    strides = {info["reduction"] for info in features}
    assert is_plain(name) == (len(strides) == 1)
    assert patch_px(name) in ((None, *strides) if is_plain(name) else (None,))


def test_the_sample_holds_every_file_of_plain_models() -> None:
    assert {backbone_files()[name] for name in SAMPLE if is_plain(name)} == PLAIN_FILES


def test_plain_heads_are_those_that_read_depths() -> None:
    reads = {name: features_read(TypeAdapter(Head).validate_python({"name": name})) for name in HEADS}
    assert {name for name, read in reads.items() if read.depths} == PLAIN_HEADS


@pytest.mark.parametrize("backbone", ["convnext_tiny.fb_in22k_ft_in1k", "mit_b0", "resnet18"])
@pytest.mark.parametrize("head", sorted(PLAIN_HEADS))
def test_a_plain_head_over_a_hierarchy_is_refused(backbone: str, head: str) -> None:
    with pytest.raises(
        ValueError, match=f"head '{head}' needs a plain vision transformer.*got '{backbone}'; use upernet"
    ):
        check_pair(backbone, head)


@pytest.mark.parametrize("backbone", ["vit_tiny_patch16_224", "beitv2_base_patch16_224.in1k_ft_in22k", "mit_b0"])
def test_heads_of_a_pyramid_take_all(backbone: str) -> None:
    for head in HEADS.keys() - PLAIN_HEADS:
        check_pair(backbone, head)


def test_queries_go_through_the_blocks_of_some_plain_transformers_alone() -> None:
    check_pair("vit_small_patch16_dinov3.lvd1689m", "eomt")
    with pytest.raises(ValueError, match="head 'eomt' needs a transformer whose blocks its queries can go through"):
        check_pair("beitv2_base_patch16_224.in1k_ft_in22k", "eomt")


@pytest.mark.parametrize(("crops_px", "fits"), [((512, 640), False), ((512, 448), True), ((672,), True)])
def test_patches_must_fill_some_crop(crops_px: tuple[int, ...], fits: bool) -> None:
    check_patches("vit_small_patch16_dinov3", crops_px)
    with contextlib.nullcontext() if fits else pytest.raises(ValueError, match="use a crop_px of 448 or 672"):
        check_patches("vit_small_patch14_dinov2", crops_px)


def test_an_unknown_backbone_is_told() -> None:
    with pytest.raises(ValueError, match="nearest: vit_tiny_patch16_224"):
        check_pair("vit_tny_patch16_224", "segmenter")


def test_neither_torch_nor_timm_is_imported() -> None:
    code = (
        "import sys; from trainables.models.compatibility import check_pair; "
        "check_pair('vit_tiny_patch16_224', 'segmenter'); "
        "assert not {'torch', 'timm', 'segmentation_models_pytorch'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=180)
