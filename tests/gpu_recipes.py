"""The recipes that the GPU suite trains, one per kind of backbone and head."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from trainables.recipe.recipe import Recipe

CROP_PX, NUM_IMAGES = 128, 48  # half of them for training: ten updates of two, and a batch of 16
BACKBONES = (
    *("convnext_atto", "resnet18", "swin_tiny_patch4_window7_224", "twins_svt_small", "mit_b0"),
    *("vit_tiny_patch16_224", "beit_base_patch16_224"),
)
PLAIN = BACKBONES[-2:]
# those of dino.yaml and edge.yaml, under a head of each kind
RECENT_PLAIN = ("vit_tiny_patch16_dinov3_qkvb", "vit_small_patch14_reg4_dinov2", "eva02_tiny_patch14_224")
RECENT = ("mobilenetv4_conv_small", "efficientvit_b0", *RECENT_PLAIN)
RECENT_HEADS = ("segformer", "linear", "mask_classification", "segmenter")
Train = Callable[..., list[dict[str, Any]]]


def recipe_of(backbone: str = "convnext_atto", head: str = "segformer", **train: Any) -> Recipe:
    values: dict[str, Any] = {
        "backbone": {"name": backbone, "pretrained": False},
        "head": {"name": head},
        "augmentation": {"crop_px": CROP_PX, "short_px": CROP_PX},
        "optimizer": {"lr": 3e-4, "warmup_epochs": 0},
        "train": {"num_epochs": 1, "batch_size": 2, "num_workers": 0} | train,
        "seed": 3,
    }
    return Recipe.model_validate(values)
