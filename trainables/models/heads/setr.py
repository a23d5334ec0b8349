"""SETR's naive and progressive-upsampling decoders (Zheng 2021, section 3.3) over a plain vision transformer.

Features (B,D,h,w) at the transformer's stride s, after 10, 15, 20 and 24 of 24 blocks (in proportion for other
depths), give logits and, with `aux_weight`, those of one decoder each on the three shallower features.

Naive: a 1x1 convolution with batch norm and ReLU, a 1x1 classifier, logits at s (the caller upsamples them bilinearly,
as the paper does). PUP: four 3x3 convolutions, with batch norm and ReLU, a bilinear doubling after each, a classifier;
the last doubling is left to the caller, because it and the 1x1 classifier can change places, so that logits lie at
s / 8, 2 px for patches of 16. Auxiliaries: naive ones beside naive; beside PUP a 3x3 convolution, four times up,
another, logits at s / 4, as mmsegmentation has them. The layer norms that mmsegmentation puts before each decoder are
the backbone's.
"""

from __future__ import annotations

from torch import Tensor, nn

from trainables.models.compatibility import FeatureRequest
from trainables.models.heads.classifier import Classifier
from trainables.models.heads.conv_norm import conv_norm_relu, init_head
from trainables.recipe.recipe import SetrHead

_DEPTHS = (10 / 24, 15 / 24, 20 / 24, 1.0)
# (kernel, upsampling after each convolution but the last) of the decoder and of its auxiliaries.
_DECODERS: dict[str, tuple[tuple[int, tuple[int, ...]], tuple[int, tuple[int, ...]]]] = {
    "setr_naive": ((1, ()), (1, ())),
    "setr_pup": ((3, (2, 2, 2)), (3, (4,))),
}


class Setr(nn.Module):
    def __init__(self, cfg: SetrHead, channels: list[int], strides: list[int], num_classes: int) -> None:
        super().__init__()
        (kernel_px, ups), (aux_kernel_px, aux_ups) = _DECODERS[cfg.name]
        self.stride = strides[-1] // 2 ** sum(up.bit_length() - 1 for up in ups)
        self.decoder = _decoder(channels[-1], cfg.channels, kernel_px, ups, num_classes)
        self.aux_weight = cfg.aux_weight
        self.aux_decoders = nn.ModuleList(
            _decoder(width, cfg.channels, aux_kernel_px, aux_ups, num_classes) for width in channels[:-1]
        )
        init_head(self)

    @staticmethod
    def reads(cfg: SetrHead) -> FeatureRequest:
        return FeatureRequest(depths=_DEPTHS if cfg.aux_weight else _DEPTHS[-1:])

    def forward(self, features: list[Tensor]) -> tuple[Tensor, list[tuple[Tensor, float]]]:
        logits = self.decoder(features[-1])
        if not self.training:
            return logits, []
        shallower = zip(self.aux_decoders, features[:-1], strict=True)
        return logits, [(decoder(feature), self.aux_weight) for decoder, feature in shallower]


def _decoder(in_channels: int, channels: int, kernel_px: int, ups: tuple[int, ...], num_classes: int) -> nn.Sequential:
    """(B,D,h,w) -> (B,K,h*u,w*u), u the product of `ups`."""
    steps: list[nn.Module] = [conv_norm_relu(in_channels, channels, kernel_px)]
    for up in ups:
        steps.append(nn.Upsample(scale_factor=up, mode="bilinear", align_corners=False))
        steps.append(conv_norm_relu(channels, channels, kernel_px))
    return nn.Sequential(*steps, Classifier(channels, num_classes, 1))
