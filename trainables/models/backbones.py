"""Builds a backbone as a pyramid, or as plain features, whatever network it is made of.

Images (B,C,H,W), H and W multiples of 32, are normalised with `.mean` and `.std`. The head reads four features
(B,C_i,H/s_i,W/s_i) at strides 4, 8, 16, 32, or those of a plain transformer at its own one, channels first.

Each feature that the head reads gets a LayerNorm over channels where the model normalises inside its blocks
(LayerNorm, GroupNorm or RMSNorm: ConvNeXt, Swin, ViT, ...): such stages end in a residual stream of no fixed scale,
which timm gives as it is and which the papers' own segmentation code normalises likewise. Batch-norm models (ResNet,
...) end in a normalised ReLU, and MiT's stages in a norm of their own; they get none. A plain transformer's features,
so normalised, become a pyramid in `SimplePyramid` unless the head wants them plain. A head whose queries go through a
transformer's last blocks gets these, and no norms (`open_vit`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Self

import torch
from timm.layers.norm import LayerNorm2d
from torch import Tensor, nn
from typing_extensions import override

from trainables.models import hierarchical, mix_transformer, plain_vit, twins
from trainables.models.backbone_names import MIX_TRANSFORMERS, check_backbone_name
from trainables.models.compatibility import PYRAMID, FeatureRequest, is_plain
from trainables.models.feature_extractor import FeatureExtractor
from trainables.models.open_vit import OpenBlocks
from trainables.models.simple_pyramid import SimplePyramid
from trainables.recipe.recipe import Backbone

STRIDES = hierarchical.STRIDES


class PyramidBackbone(nn.Module):
    """image (B,C,H,W) -> features at `.strides`, `.channels` wide.

    `layer_of` gives each parameter's depth (0 the stem) for layer-wise learning-rate decay; what is not in it is new
    and learns as the head does. `no_weight_decay` are the names that timm exempts from weight decay; `load_report` is
    what the weights came from; `sizes` the image sizes that the model takes. Of a frozen backbone the body stays in
    evaluation mode, without gradients and activations kept for them; its norms and pyramid, which are new, learn. Of
    frozen stages likewise, with the stem before them.
    """

    def __init__(self, cfg: Backbone, found: FeatureExtractor, reads: FeatureRequest) -> None:
        super().__init__()
        self.name = cfg.name
        self.frozen = cfg.frozen
        self.body = found.body
        self.channels = found.channels
        self.mean, self.std = found.mean, found.std
        self.sizes = found.sizes
        self.load_report = found.load_report
        self._channels_last = found.channels_last
        levels = () if reads.open_blocks else (range(len(found.channels)) if reads.depths else reads.levels)
        self.norms = nn.ModuleList(
            LayerNorm2d(channels) if found.residual and level in levels else nn.Identity()
            for level, channels in enumerate(found.channels)
        )
        self.pyramid: nn.Module = nn.Identity()
        self.strides = list(found.strides)
        if not reads.depths and self.strides != list(STRIDES):
            self.pyramid = SimplePyramid(self.channels[0], self.strides[0], STRIDES, levels)
            self.strides = list(STRIDES)
        self.layer_of, self.no_weight_decay = _layers(found, self.norms)
        if self.frozen:
            self.body.requires_grad_(False).eval()
        self._frozen_stages = cfg.frozen_stages
        if cfg.frozen_stages:
            _freeze(self.body, found.stage_of, cfg)

    @override
    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        if self.frozen:
            self.body.eval()
        for module in self.body.modules() if self._frozen_stages else ():
            learning = [parameter.requires_grad for parameter in module.parameters()]
            if learning and not any(learning):
                module.eval()
        return self

    def forward(self, image: Tensor) -> list[Tensor] | OpenBlocks:
        features = self.read(image)
        return features if isinstance(features, OpenBlocks) else self.finish(features)

    def read(self, image: Tensor) -> list[Tensor] | OpenBlocks:
        """What the body says of an image."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            features: list[Tensor] | OpenBlocks = self.body(image)
        return features

    def finish(self, features: Sequence[Tensor]) -> list[Tensor]:
        """What the head gets of the body's features."""
        if self._channels_last:
            features = [feature.permute(0, 3, 1, 2) for feature in features]  # (B,h,w,C) -> (B,C,h,w)
        normalised = [norm(feature) for norm, feature in zip(self.norms, features, strict=True)]
        pyramid: list[Tensor] = self.pyramid(normalised)
        return pyramid

    def check_size(self, height_px: int, width_px: int) -> None:
        """Raise ValueError with the sizes that the model takes, where it does not take this one (padded to 32)."""
        self.sizes.check(height_px, width_px, self.name)

    def set_grad_checkpointing(self, enable: bool = True) -> bool:
        """Recompute activations in the backward pass, by the model's own switch. False where it has none."""
        if twins.set_grad_checkpointing(self.body, enable):
            return True
        for owner in (self.body, getattr(self.body, "model", None)):  # some of timm's extractors hold the model whole
            switch: Callable[[bool], None] | None = getattr(owner, "set_grad_checkpointing", None)
            if switch is not None:
                with contextlib.suppress(AssertionError):  # of models that have the switch's name and cannot do it
                    switch(enable)
                    return True
        return False


def build_backbone(cfg: Backbone, reads: FeatureRequest = PYRAMID, *, in_chans: int = 3) -> PyramidBackbone:
    """The backbone of `cfg.name` for what a head reads, its weights loaded as `cfg` says.

    Levels that are not read are left without parameters of their own, so that every parameter gets a gradient.
    `in_chans` other than 3 adapts the first convolution, and pretrained filters, as timm does. Raises ValueError for an
    unknown name, a model without such features, a drop_path that the model does not take, and weights that are not
    available or do not fit.
    """
    check_backbone_name(cfg.name)
    reads = reads.over(cfg.name)
    return PyramidBackbone(cfg, _source(cfg.name)(cfg, reads, in_chans), reads)


def _source(name: str) -> Callable[[Backbone, FeatureRequest, int], FeatureExtractor]:
    if name.partition(".")[0] in MIX_TRANSFORMERS:
        return mix_transformer.extract
    return plain_vit.extract if is_plain(name) else hierarchical.extract


def _freeze(body: nn.Module, stage_of: Mapping[str, int], cfg: Backbone) -> None:
    """Keep the stem and the first stages; ValueError where none is left that learns."""
    last = max(stage_of.values())
    if cfg.frozen_stages >= last:
        remedy = f"use {last - 1} or fewer, or frozen: true" if last else "use 0: timm orders none of it"
        raise ValueError(
            f"frozen_stages must leave a stage or block that learns, of {last} in {cfg.name!r}, got "
            f"{cfg.frozen_stages}; {remedy}"
        )
    for name, parameter in body.named_parameters():
        if stage_of[name] <= cfg.frozen_stages:
            parameter.requires_grad_(False)


def _layers(found: FeatureExtractor, norms: nn.ModuleList) -> tuple[dict[str, int], frozenset[str]]:
    """The norms come after everything: they share the depth of the last layer."""
    layer_of = {f"body.{name}": depth for name, depth in found.layer_of.items()}
    last = max(layer_of.values())
    layer_of |= {f"norms.{name}": last for name, _ in norms.named_parameters()}
    return layer_of, frozenset(f"body.{name}" for name in found.no_weight_decay)
