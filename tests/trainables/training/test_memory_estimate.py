"""The account of a trial's memory, held against what can be counted by hand."""

from __future__ import annotations

import itertools

import pytest
import torch

from trainables.models import segmentor
from trainables.models.lora import num_merged
from trainables.models.segmentor import adapt_as, build_segmentor
from trainables.recipe.recipe import Loss, Recipe
from trainables.training.losses import build_loss
from trainables.training.memory_estimate import check_views, footprint, num_params
from trainables.training.training_step import TrainingStep

SEGFORMER, UPERNET = {"name": "segformer"}, {"name": "upernet"}
MASKS = {"name": "mask_classification", "channels": 64, "num_queries": 200, "num_layers": 1}

EOMT = {"name": "eomt", "channels": 64, "num_queries": 50, "num_blocks": 2}


def recipe_of(backbone="test_convnext", head=SEGFORMER, crop_px=64, **train):
    values = {"backbone": {"name": backbone, "pretrained": False}, "head": head, "train": train}
    return Recipe.model_validate(values | {"augmentation": {"crop_px": crop_px}})


def test_parameters_are_those_of_the_built_network():
    recipe = recipe_of()
    assert num_params(recipe, 5) == sum(p.numel() for p in build_segmentor(recipe, 5).parameters())


@pytest.mark.parametrize(("ema_decay", "copies"), [(0.9, 5), (None, 4)])
def test_what_stays_is_weights_gradients_adams_moments_and_the_ema(ema_decay, copies):
    found = footprint(recipe_of(ema_decay=ema_decay), 5, low_precision=False)
    assert found.fixed_bytes == copies * 4 * found.num_params
    assert found.bytes(3) - found.bytes(1) == 2 * found.image_bytes


def test_a_frozen_backbone_keeps_weights_and_their_average_alone():
    recipe = recipe_of("convnext_atto", crop_px=128)
    frozen = recipe.model_copy(update={"backbone": recipe.backbone.model_copy(update={"frozen": True})})
    model = build_segmentor(frozen, 5)
    learning = sum(p.numel() for p in model.parameters() if p.requires_grad)
    found, plain = (footprint(each, 5, low_precision=False) for each in (frozen, recipe))
    assert found.num_params == plain.num_params
    assert found.fixed_bytes == 4 * (2 * found.num_params + 3 * learning)
    assert found.image_bytes < 0.8 * plain.image_bytes


@pytest.mark.parametrize("kept", [{"frozen_stages": 8}, {"lora_rank": 4}])
def test_what_keeps_its_weights_has_no_gradients_and_no_moments(kept):
    recipe = recipe_of("vit_tiny_patch16_224", {"name": "linear"}, crop_px=128)
    part = recipe.model_copy(update={"backbone": recipe.backbone.model_copy(update=kept)})
    model = build_segmentor(part, 5)
    adapt_as(model, part.backbone)
    learning = sum(p.numel() for p in model.parameters() if p.requires_grad)
    found, plain = (footprint(each, 5, low_precision=False) for each in (part, recipe))
    assert found.fixed_bytes == 4 * (2 * found.num_params + 3 * learning + num_merged(model)) < 0.8 * plain.fixed_bytes
    assert found.bytes(2) < 0.8 * plain.bytes(2)


@pytest.mark.parametrize(
    ("backbone", "head"),
    [
        ("convnext_atto", SEGFORMER),
        ("resnet18", UPERNET),
        ("test_convnext", MASKS),
        ("test_vit", EOMT),
        ("vit_tiny_patch16_dinov3_qkvb", {"name": "linear"}),
    ],
)
def test_the_peak_is_that_of_a_real_step(backbone, head):
    recipe, crop_px, num_images = recipe_of(backbone, head, crop_px=128), 128, 2
    found = footprint(recipe, 5, low_precision=False)
    step = TrainingStep(build_segmentor(recipe, 5), build_loss(Loss(), 5))
    image, label = torch.randn(num_images, 3, crop_px, crop_px), torch.zeros(num_images, crop_px, crop_px).long()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as seen:
        step(image, label, None).backward()
    events = sorted((e for e in seen.profiler.kineto_results.events() if e.name() == "[memory]"), key=_start)
    alive = list(itertools.accumulate(event.nbytes() for event in events))
    peak = found.num_params * 4 + num_images * found.image_bytes
    assert peak == pytest.approx(max(alive), rel=0.25)


def _start(event):
    return event.start_ns()


def test_precision_crop_and_recomputation_count():
    plain = footprint(recipe_of("convnext_atto", crop_px=128), 5, low_precision=False).image_bytes
    assert footprint(recipe_of("convnext_atto", crop_px=128), 5, low_precision=True).image_bytes < 0.8 * plain
    assert footprint(recipe_of("convnext_atto", crop_px=256), 5, low_precision=False).image_bytes > 3.5 * plain
    recomputed = recipe_of("convnext_atto", crop_px=128, grad_checkpointing=True)
    assert footprint(recomputed, 5, low_precision=False).image_bytes < 0.8 * plain


def test_recomputation_is_refused_where_no_switch_is():
    with pytest.raises(
        ValueError, match="grad_checkpointing must be false for 'hrnet_w18_small', for which timm has no"
    ):
        footprint(recipe_of("hrnet_w18_small", grad_checkpointing=True), 5, low_precision=False)


def test_a_size_that_the_network_does_not_take_is_told(monkeypatch):
    check_views(recipe_of(), 5, [(64, 96), (96, 64), (160, 160)])

    def refuses(self, image):
        raise AssertionError(f"Input height ({image.shape[2]}) doesn't match model (224).")

    monkeypatch.setattr(segmentor.Segmentor, "forward_all", refuses)
    with pytest.raises(ValueError, match=r"does not take images of 32 x 32 px .*Input height \(32\).*other tta.scales"):
        check_views(recipe_of(), 5, [(32, 32)])
    with pytest.raises(ValueError, match="does not take images of 480 x 480 px"):
        footprint(recipe_of(crop_px=480), 5, low_precision=False)
