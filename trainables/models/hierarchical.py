"""timm's hierarchical models: ConvNeXt, Swin, Twins, PVT, MaxViT, HRNet, ResNet and the like.

They give four features at strides 4, 8, 16 and 32; other levels that timm gives are dropped.
"""

from __future__ import annotations

import functools
from typing import Any

import timm
import torch
from timm.layers.format import Format

from trainables.models.compatibility import FeatureRequest
from trainables.models.feature_extractor import (
    FeatureExtractor,
    as_value_error,
    check_drop_path,
    layers,
    load_weights,
    normalises_in_blocks,
    shaping,
    statistics,
    whole_model,
)
from trainables.models.input_sizes import InputSizes, find_sizes
from trainables.recipe.recipe import Backbone

STRIDES = (4, 8, 16, 32)
_EXAMPLES = "a hierarchical model, such as convnext_tiny, swin_tiny_patch4_window7_224 or resnet50"
# Swin: take any image size, and shift windows in every stage (at 224 px, timm's default, the last stage is one window
# and has no shift; larger images need it, as in Liu 2021's segmentation code).
_ANY_SIZE = {"strict_img_size": False, "always_partition": True}


def extract(cfg: Backbone, reads: FeatureRequest, in_chans: int) -> FeatureExtractor:
    """Raises ValueError for a model without features at strides 4 to 32, or where plain features are wanted."""
    if reads.depths:
        raise ValueError(f"backbone {cfg.name!r} has no features at one stride; use a head that reads a pyramid")
    whole, args = whole_model(cfg, _ANY_SIZE, in_chans)
    _, *native_px = whole.pretrained_cfg["input_size"]
    indices, sizes = _levels(cfg.name, shaping(args), tuple(native_px))
    with as_value_error(cfg.name, "as a feature pyramid", _EXAMPLES):
        body: Any = timm.create_model(cfg.name, features_only=True, out_indices=indices, **args)
    check_drop_path(body, cfg)
    return FeatureExtractor(
        body=body,
        channels=body.feature_info.channels(),
        strides=list(STRIDES),
        mean=statistics(whole.pretrained_cfg["mean"], in_chans),
        std=statistics(whole.pretrained_cfg["std"], in_chans),
        residual=normalises_in_blocks(body),
        channels_last=_is_channels_last(body),
        sizes=sizes,
        load_report=load_weights(body, whole, cfg, args),
        **layers(body, whole),
    )


@functools.cache
def _levels(
    name: str, model_args: tuple[tuple[str, Any], ...], native_px: tuple[int, int]
) -> tuple[tuple[int, ...], InputSizes]:
    """Which of timm's outputs lie at strides 4, 8, 16, 32 (the deepest where several do), and for which image sizes.

    A pass on the meta device shows it: some models have one input size, and some state strides that hold for none
    (unpadded convolutions).
    """
    args = dict(model_args)
    with torch.device("meta"), as_value_error(name, "as a feature pyramid", _EXAMPLES):
        probe: Any = timm.create_model(name, features_only=True, **args).eval()
    strides = probe.feature_info.reduction()
    index_at = dict(zip(strides, probe.feature_info.out_indices, strict=True))
    if not set(STRIDES) <= set(index_at):
        raise ValueError(
            f"backbone {name!r} has features at strides {strides}, and a pyramid needs 4, 8, 16 and 32; use {_EXAMPLES}"
        )
    rows = slice(1, 3) if _is_channels_last(probe) else slice(2, 4)

    def try_pass(height: int, width: int) -> None:
        with torch.device("meta"), torch.no_grad():
            features = probe(torch.empty(1, args.get("in_chans", 3), height, width))
        size_at = {stride: tuple(feature.shape[rows]) for stride, feature in zip(strides, features, strict=True)}
        expected = [(height // stride, width // stride) for stride in STRIDES]
        if [size_at[stride] for stride in STRIDES] != expected:
            raise ValueError(f"features of {size_at} instead of {expected} for {height} x {width} px")

    with as_value_error(name, "on images of any size", _EXAMPLES):
        sizes = find_sizes(try_pass, native_px)
    return tuple(index_at[stride] for stride in STRIDES), sizes


def _is_channels_last(body: Any) -> bool:
    return bool(getattr(body, "output_fmt", Format.NCHW) == Format.NHWC)
