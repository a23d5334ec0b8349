import pytest
from pydantic import ValidationError

from trainables.recipe.augmentation import Augmentation
from trainables.recipe.recipe import Backbone, Recipe, SegFormerHead, Train, backbone_family


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("convnext_tiny.fb_in22k_ft_in1k", "convnext"),
        ("test_convnext2", "convnext"),
        ("convnextv2_atto", "convnextv2"),
        ("swin_large_patch4_window12_384", "swin"),
        ("resnet18", "resnet"),
        ("mit_b5", "mit"),
        ("eva02_tiny_patch14_224", "eva"),
    ],
)
def test_family_of_a_backbone(name: str, family: str) -> None:
    assert backbone_family(name) == family


def test_hash_changes_with_any_field_and_survives_json() -> None:
    recipe = Recipe(backbone=Backbone(name="resnet18"), head=SegFormerHead())
    assert Recipe.model_validate_json(recipe.model_dump_json()).hash == recipe.hash
    assert recipe.model_copy(update={"seed": 1}).hash != recipe.hash


def test_crop_names_the_nearest_sizes_that_divide() -> None:
    with pytest.raises(ValidationError, match="divisible by 32, got 500; use 480 or 512"):
        Augmentation(crop_px=500)


def test_accumulate_divides_the_batch() -> None:
    with pytest.raises(ValidationError, match="accumulate must divide batch_size, got 3 and 8"):
        Train(batch_size=8, accumulate=3)
