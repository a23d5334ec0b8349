"""segmentation-models-pytorch's decoders over the pyramid: four features at strides 4, 8, 16, 32 -> logits.

smp's decoders expect the image and a stride-2 feature before these four, or a last level dilated to stride 16. The
pyramid has neither, so each is fitted as its builder says: those that climb level by level stop at the finest level
there is, where smp's own further blocks would have no feature to merge. Logits (B,K,h,w) lie at `.stride`. Widths and
dropout are smp's defaults. Every batch norm is a `PooledBatchNorm2d`, because PAN and DeepLabV3+ pool to one pixel.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from segmentation_models_pytorch.base.initialization import initialize_decoder, initialize_head
from segmentation_models_pytorch.decoders.deeplabv3.decoder import DeepLabV3PlusDecoder
from segmentation_models_pytorch.decoders.fpn.decoder import FPNDecoder
from segmentation_models_pytorch.decoders.linknet.decoder import LinknetDecoder
from segmentation_models_pytorch.decoders.manet.decoder import MAnetDecoder
from segmentation_models_pytorch.decoders.pan.decoder import PANDecoder
from segmentation_models_pytorch.decoders.pspnet.decoder import PSPDecoder
from segmentation_models_pytorch.decoders.unet.decoder import UnetDecoder
from segmentation_models_pytorch.decoders.unetplusplus.decoder import UnetPlusPlusDecoder
from torch import Tensor, nn
from torch.nn import functional

from trainables.models.compatibility import PYRAMID, FeatureRequest
from trainables.models.heads.classifier import Classifier
from trainables.models.heads.conv_norm import PooledBatchNorm2d
from trainables.recipe.recipe import SmpHead

_WIDTHS = (256, 128, 64)  # at strides 16, 8, 4: the first three of smp's (256, 128, 64, 32, 16)


class _Fitted(NamedTuple):
    decoder: nn.Module
    channels: int  # that the decoder gives
    stride: int  # of its output
    kernel_px: int  # of smp's classifier after it
    leading: int  # how many entries smp expects before the stride-4 feature


def _unet(channels: list[int]) -> _Fitted:
    """Ronneberger 2015, to stride 4."""
    return _Fitted(UnetDecoder([0, *channels], _WIDTHS, n_blocks=3), _WIDTHS[-1], 4, 3, 1)


def _unetplusplus(channels: list[int]) -> _Fitted:
    """Zhou 2018, to stride 4: the last node, which only upsamples the finest merged map, is left out."""
    decoder = UnetPlusPlusDecoder([0, *channels], (*_WIDTHS, 32), n_blocks=4)
    decoder.blocks[f"x_0_{decoder.depth}"] = nn.Identity()
    return _Fitted(decoder, _WIDTHS[-1], 4, 3, 1)


def _manet(channels: list[int]) -> _Fitted:
    """Fan 2020, to stride 4."""
    return _Fitted(MAnetDecoder([0, *channels], list(_WIDTHS), n_blocks=3), _WIDTHS[-1], 4, 3, 1)


def _linknet(channels: list[int]) -> _Fitted:
    """Chaurasia 2017, to stride 2: its last block is the one that mixes the sum of the stride-4 level."""
    return _Fitted(LinknetDecoder([0, *channels], prefinal_channels=32, n_blocks=4), 32, 2, 1, 1)


def _fpn(channels: list[int]) -> _Fitted:
    """Kirillov 2019, as smp has it."""
    decoder = FPNDecoder(list(channels), encoder_depth=5)
    return _Fitted(decoder, decoder.out_channels, 4, 1, 0)


def _pan(channels: list[int]) -> _Fitted:
    """Li 2018, over stride 32 (smp's other choice beside a dilated stride 16)."""
    decoder = PANDecoder([0, 0, *channels], encoder_depth=5, decoder_channels=32)
    decoder.fpa = _AtLeast8(decoder.fpa)
    return _Fitted(decoder, 32, 4, 3, 2)


def _deeplabv3plus(channels: list[int]) -> _Fitted:
    """Chen 2018, over stride 32, where rates (6, 12, 18) reach as many pixels as smp's (12, 24, 36) at 16."""
    decoder = DeepLabV3PlusDecoder(
        [0, 0, *channels],
        encoder_depth=5,
        out_channels=256,
        atrous_rates=(6, 12, 18),
        output_stride=16,
        aspp_separable=True,
        aspp_dropout=0.5,
    )
    decoder.up = nn.Upsample(scale_factor=8, mode="bilinear", align_corners=True)
    return _Fitted(decoder, 256, 4, 1, 2)


def _pspnet(channels: list[int]) -> _Fitted:
    """Zhao 2017, at stride 32: all of the backbone and coarse logits.

    smp cuts the backbone off at stride 8, half its stages; the paper dilates it there, which timm's transformers
    cannot. UPerNet is the same pooling with a pyramid to sharpen it.
    """
    return _Fitted(PSPDecoder([0, 0, *channels]), 512, 32, 3, 2)


_FITTED: dict[str, Callable[[list[int]], _Fitted]] = {
    "unet": _unet,
    "unetplusplus": _unetplusplus,
    "manet": _manet,
    "linknet": _linknet,
    "fpn": _fpn,
    "pan": _pan,
    "deeplabv3plus": _deeplabv3plus,
    "pspnet": _pspnet,
}
# The levels that these two read; the rest read all.
_READS: dict[str, FeatureRequest] = {
    "deeplabv3plus": FeatureRequest(levels=(0, 3)),
    "pspnet": FeatureRequest(levels=(3,)),
}


class SmpDecoder(nn.Module):
    """One of smp's decoders and its classifier, initialised as smp does."""

    def __init__(self, cfg: SmpHead, channels: list[int], strides: list[int], num_classes: int) -> None:
        super().__init__()
        if tuple(strides) != (4, 8, 16, 32):
            raise ValueError(
                f"head {cfg.name!r} needs features at strides 4, 8, 16 and 32, got {strides}; use upernet or segformer"
            )
        fitted = _FITTED[cfg.name](channels)
        self.decoder = _with_pooled_norms(fitted.decoder)
        self.classifier = Classifier(fitted.channels, num_classes, fitted.kernel_px, padding=fitted.kernel_px // 2)
        self.stride = fitted.stride
        self._leading = fitted.leading
        initialize_decoder(self.decoder)
        initialize_head(self.classifier)

    @staticmethod
    def reads(cfg: SmpHead) -> FeatureRequest:
        return _READS.get(cfg.name, PYRAMID)

    def forward(self, features: list[Tensor]) -> tuple[Tensor, list[tuple[Tensor, float]]]:
        # What leads is skipped by every decoder; only its place counts.
        decoded = self.decoder([features[0]] * self._leading + features)
        return self.classifier(decoded), []


class _AtLeast8(nn.Module):
    """Pads small maps (B,C,h,w) with their own border and crops the result.

    Feature pyramid attention halves its input three times, which a side under 8 px (an image under 256 px) does not
    survive. Larger maps pass unchanged.
    """

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[2:]
        missing = (0, max(0, 8 - width), 0, max(0, 8 - height))
        padded = functional.pad(x, missing, mode="replicate") if any(missing) else x
        out: Tensor = self.block(padded)
        return out[:, :, :height, :width]


def _with_pooled_norms(module: nn.Module) -> nn.Module:
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            setattr(module, name, PooledBatchNorm2d(child.num_features, eps=child.eps, momentum=child.momentum))
        else:
            _with_pooled_norms(child)
    return module
