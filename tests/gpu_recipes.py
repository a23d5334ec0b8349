"""The recipes that the GPU suite trains, one per kind of backbone and head."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from narrow_models import HEADS

from trainables.models.compatibility import check_pair
from trainables.recipe.recipe import Recipe

TOY = os.environ.get("SEGSEARCH_GPU_SUITE") == "cpu"  # the rehearsal on a CPU: narrow networks, small crops
CROP_PX = 64 if TOY else 128
NUM_IMAGES = 48  # half of them for training: ten updates of two, and a batch of 16
BACKBONES = (
    *("convnext_atto", "resnet18", "swin_tiny_patch4_window7_224", "twins_svt_small", "mit_b0"),
    *("vit_tiny_patch16_224", "beit_base_patch16_224"),
)
# those of dino.yaml and edge.yaml, under a head of each kind
RECENT = (
    *("mobilenetv4_conv_small", "efficientvit_b0"),
    *("vit_tiny_patch16_dinov3_qkvb", "vit_small_patch14_reg4_dinov2", "eva02_tiny_patch14_224"),
)
RECENT_HEADS = ("segformer", "linear", "mask_classification", "segmenter", "eomt")
Train = Callable[..., list[dict[str, Any]]]


def pairs(backbones: Sequence[str], heads: Iterable[str]) -> list[tuple[str, str]]:
    """Those of them that can be built."""

    def fits(backbone: str, head: str) -> bool:
        with contextlib.suppress(ValueError):
            check_pair(backbone, head)
            return True
        return False

    return [(backbone, head) for backbone in backbones for head in heads if fits(backbone, head)]


def recipe_of(backbone: str = "convnext_atto", head: str | Mapping[str, Any] = "segformer", **train: Any) -> Recipe:
    """`head` is a name, or the head's section. EoMT masks from the first update on."""
    head = {"name": head} if isinstance(head, str) else head
    if head["name"] == "eomt":
        head = {"num_blocks": 2} | head
        train = {"num_epochs": 4} | train  # it has to end its masks before the last
    if TOY:
        head = HEADS.get(head["name"], {}) | head
    values: dict[str, Any] = {
        "backbone": {"name": backbone, "pretrained": False},
        "head": head,
        "augmentation": {"crop_px": CROP_PX, "short_px": CROP_PX},
        "optimizer": {"lr": 3e-4, "warmup_epochs": 0},
        "train": {"num_epochs": 1, "batch_size": 2, "num_workers": 0} | train,
        "seed": 3,
    }
    return Recipe.model_validate(values)


def with_crop(recipe: Recipe, crop_px: int) -> Recipe:
    """Large enough that activations, and not blocks of the allocator, are most of the memory."""
    sizes = {"crop_px": crop_px, "short_px": crop_px}
    return recipe.model_copy(update={"augmentation": recipe.augmentation.model_copy(update=sizes)})
