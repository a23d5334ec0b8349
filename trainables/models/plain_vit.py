"""timm's plain transformers: ViT, DeiT, BEiT, EVA, DINO and the like, whose blocks share one stride.

They give one feature per depth that the head reads, all at one stride. Patches of 8, 16 or 32 px give it as it is.
Others (14 px) are padded to whole patches on the right and at the bottom, and their grid resampled to the nearest of
these strides, so that everything after has strides that divide 32.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional

from trainables.models.backbone_names import backbone_files
from trainables.models.beit import BeitFeatures
from trainables.models.compatibility import FeatureRequest
from trainables.models.feature_extractor import (
    FeatureExtractor,
    as_value_error,
    check_drop_path,
    layers,
    load_weights,
    shaping,
    statistics,
    whole_model,
)
from trainables.models.input_sizes import InputSizes, find_sizes
from trainables.models.open_vit import OpenTransformer
from trainables.models.rotary import make_on_device
from trainables.recipe.recipe import Backbone

# After a third, a half, two thirds and all of the blocks: BEiT's blocks 3, 5, 7, 11 of 12 and 7, 11, 15, 23 of 24.
PYRAMID_DEPTHS = (1 / 3, 1 / 2, 2 / 3, 1.0)
_STRIDES = (8, 16, 32)
_EXAMPLES = "another, such as vit_small_patch16_224 or beitv2_base_patch16_224"
_ANY_SIZE = {"dynamic_img_size": True}


class PlainFeatures(nn.Module):
    """image (B,C,H,W), multiples of 32 px -> features (B,D,H/stride,W/stride), one for each of `blocks`."""

    def __init__(self, model: Any, blocks: Sequence[int], patch_px: int, stride: int) -> None:
        super().__init__()
        self.model = model
        self._blocks = list(blocks)
        self._patch_px, self._stride = patch_px, stride

    def forward(self, image: Tensor) -> list[Tensor]:
        height, width = image.shape[2:]
        return [self.resample(feature, height, width) for feature in self._read(self.pad(image))]

    def pad(self, image: Tensor) -> Tensor:
        """To whole patches, on the right and at the bottom."""
        below, right = (-side % self._patch_px for side in image.shape[2:])
        return functional.pad(image, (0, right, 0, below)) if below or right else image

    def _read(self, image: Tensor) -> list[Tensor]:
        asked = sorted(set(self._blocks))  # a shallow model may give two depths the same block
        features = self.model.forward_intermediates(image, indices=asked, norm=False, intermediates_only=True)
        at = dict(zip(asked, features, strict=True))
        return [at[block] for block in self._blocks]

    def resample(self, feature: Tensor, height: int, width: int) -> Tensor:
        """A feature of whole patches -> (B,D,H/stride,W/stride). Bilinear, so that pixel i of the new grid is centred
        where the image is, at (i + 1/2) * stride px."""
        if self._patch_px == self._stride:
            return feature
        scaled = functional.interpolate(
            feature,
            scale_factor=self._patch_px / self._stride,
            mode="bilinear",
            align_corners=False,
            recompute_scale_factor=False,
        )
        return scaled[:, :, : height // self._stride, : width // self._stride]

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        self.model.set_grad_checkpointing(enable)


# What reads the blocks of a model, by the timm file that defines it.
_READERS: dict[str, Callable[[Any, Sequence[int], int, int], nn.Module]] = {"beit": BeitFeatures}


def extract(cfg: Backbone, reads: FeatureRequest, in_chans: int) -> FeatureExtractor:
    """Raises ValueError for a model that gives no features, or at no one stride."""
    whole, args = whole_model(cfg, _ANY_SIZE, in_chans)
    num_blocks = len(whole.feature_info)
    depths = reads.depths or PYRAMID_DEPTHS
    blocks = tuple(max(0, round(depth * num_blocks) - 1) for depth in depths)
    _, *native_px = whole.pretrained_cfg["input_size"]
    sizes = _sizes(cfg.name, blocks, shaping(args), tuple(native_px))
    body = _build(cfg.name, blocks, args)
    if reads.open_blocks:
        assert isinstance(body, PlainFeatures), "`check_pair` refuses models that another class reads"
        body = OpenTransformer(body.model, reads.open_blocks, body.pad, body.resample)
    check_drop_path(body, cfg)
    return FeatureExtractor(
        body=body,
        channels=[whole.feature_info[block]["num_chs"] for block in blocks],
        strides=[_stride(whole)] * len(blocks),
        mean=statistics(whole.pretrained_cfg["mean"], in_chans),
        std=statistics(whole.pretrained_cfg["std"], in_chans),
        residual=True,
        sizes=sizes,
        load_report=load_weights(body, whole, cfg, args),
        **layers(body, whole),
    )


def _build(name: str, blocks: Sequence[int], args: dict[str, Any]) -> nn.Module:
    with as_value_error(name, "as a plain transformer", _EXAMPLES):
        getter: Any = timm.create_model(name, features_only=True, out_indices=sorted(set(blocks)), **args)
        model = getter.model
        patch_px = set(getter.feature_info.reduction())
    if len(patch_px) != 1:
        raise ValueError(f"backbone {name!r} has features at strides {sorted(patch_px)}, not at one; use {_EXAMPLES}")
    make_on_device(model)
    reader = _READERS.get(backbone_files()[name.partition(".")[0]], PlainFeatures)
    return reader(model, blocks, patch_px.pop(), _stride(model))


def _stride(model: Any) -> int:
    """The one of 8, 16, 32 px that is nearest to the model's patch, as a ratio."""
    patch_px: int = model.feature_info[0]["reduction"]
    return min(_STRIDES, key=lambda stride: max(stride / patch_px, patch_px / stride))


@functools.cache
def _sizes(
    name: str, blocks: tuple[int, ...], model_args: tuple[tuple[str, Any], ...], native_px: tuple[int, int]
) -> InputSizes:
    """A pass on the meta device shows for which image sizes the features have the size that their stride says."""
    args = dict(model_args)
    with torch.device("meta"):
        probe = _build(name, blocks, args).eval()

    def try_pass(height: int, width: int) -> None:
        with torch.device("meta"), torch.no_grad():
            features = probe(torch.empty(1, args.get("in_chans", 3), height, width))
        sizes = {tuple(feature.shape[2:]) for feature in features}
        if len(sizes) != 1 or not any(sizes == {(height // stride, width // stride)} for stride in _STRIDES):
            raise ValueError(f"features of {sizes} for {height} x {width} px")

    with as_value_error(name, "as a plain transformer", _EXAMPLES):
        return find_sizes(try_pass, native_px)
