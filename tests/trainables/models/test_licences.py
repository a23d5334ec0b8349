"""Licences against timm's own tags: each that timm gives is classified or known to be unclear."""

from __future__ import annotations

import pytest
import timm

from trainables.models.licences import CommercialUse, commercial_use, published_licence, weights_licence
from trainables.recipe.recipe import Backbone

# Every licence that the installed timm names, as its text reads, but for those that nobody has read for this table.
TIMMS = {
    "apache-2.0": CommercialUse.ALLOWED,
    "mit": CommercialUse.ALLOWED,
    "bsd-3-clause": CommercialUse.ALLOWED,
    "cc-by-4.0": CommercialUse.ALLOWED,
    "dinov3-license": CommercialUse.ON_TERMS,
    "gemma": CommercialUse.ON_TERMS,
    "nvidia-open-model-license": CommercialUse.ON_TERMS,
    "apple-ascl": CommercialUse.ON_TERMS,
    "cc-by-nc-4.0": CommercialUse.FORBIDDEN,
    "fair-noncommercial-research-license": CommercialUse.FORBIDDEN,
    "apple-amlr": CommercialUse.FORBIDDEN,
}
UNCLEAR = {None, "unknown", "cvnets-license", "fastvit-license", "mobileone-license", "qwen-community-1.0"}
UNCLEAR |= {"sapiens2-license", "seer-license"}


def test_every_licence_of_timm_is_in_the_table() -> None:
    named = {timm.get_pretrained_cfg(name).license for name in timm.list_models(include_tags=True, pretrained=True)}
    assert named <= set(TIMMS) | UNCLEAR


@pytest.mark.parametrize(
    ("licence", "use"),
    [
        *TIMMS.items(),
        *((name, CommercialUse.UNKNOWN) for name in sorted(filter(None, UNCLEAR))),
        ("CC BY 4.0", CommercialUse.ALLOWED),
        ("Attribution-NonCommercial License", CommercialUse.FORBIDDEN),
        ("the data card names no licence", CommercialUse.UNKNOWN),
    ],
)
def test_what_a_licence_s_name_says(licence: str, use: CommercialUse) -> None:
    assert commercial_use(licence) == use


@pytest.mark.parametrize(
    ("cfg", "use"),
    [
        ({"name": "mit_b0"}, CommercialUse.FORBIDDEN),  # not the licence MIT
        ({"name": "mit_b5.imagenet"}, CommercialUse.FORBIDDEN),
        ({"name": "vit_small_patch14_dinov2"}, CommercialUse.ALLOWED),
        ({"name": "convnextv2_pico.fcmae_ft_in1k"}, CommercialUse.FORBIDDEN),
        ({"name": "mit_b0", "weights_file": "mit.pth"}, CommercialUse.UNKNOWN),  # a file's name says nothing
    ],
)
def test_what_the_weights_of_a_recipe_allow(cfg: dict[str, str], use: CommercialUse) -> None:
    licence = weights_licence(Backbone.model_validate(cfg))
    assert licence is not None
    assert commercial_use(licence) == use


def test_random_weights_have_no_licence() -> None:
    assert weights_licence(Backbone(name="mit_b0", pretrained=False)) is None


def test_a_weight_without_a_licence_says_so() -> None:
    assert commercial_use(published_licence("resnet50.bamboo")) == CommercialUse.UNKNOWN
