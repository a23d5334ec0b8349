"""DPT (Ranftl 2021) over a plain vision transformer, through smp's decoder.

Features (B,D,h,w) at the transformer's stride, after a quarter, a half, three quarters and all of its blocks, give
logits (B,K,H/2,W/2). Each feature is reassembled at stride 4, 8, 16 or 32 and fused from the coarsest on, with
residual convolutions and doublings (section 3); then a 3x3 convolution with batch norm and ReLU, dropout and a
classifier. Differences: the class token is ignored (the paper's Read_ignore), since not every transformer has one;
widths before the fusion are D/4, D/2, D and D, the paper's 256, 512, 1024 and 1024 for ViT-L; upsampling to the image
is left to the caller.
"""

from __future__ import annotations

from segmentation_models_pytorch.base.initialization import initialize_decoder
from segmentation_models_pytorch.decoders.dpt.decoder import DPTDecoder
from torch import Tensor, nn

from trainables.models.compatibility import FeatureRequest
from trainables.models.heads.classifier import Classifier
from trainables.models.heads.conv_norm import conv_norm_relu, init_head
from trainables.recipe.recipe import DptHead


class Dpt(nn.Module):
    def __init__(self, cfg: DptHead, channels: list[int], strides: list[int], num_classes: int) -> None:
        super().__init__()
        width = channels[-1]
        self.stride = 2
        self.decoder = DPTDecoder(
            encoder_out_channels=channels,
            encoder_output_strides=strides,
            encoder_has_prefix_tokens=False,
            readout="ignore",
            intermediate_channels=(width // 4, width // 2, width, width),
            fusion_channels=cfg.channels,
        )
        self.classifier = nn.Sequential(
            conv_norm_relu(cfg.channels, cfg.channels, 3),
            nn.Dropout2d(cfg.dropout),
            Classifier(cfg.channels, num_classes, 1),
        )
        initialize_decoder(self.decoder)
        init_head(self.classifier)

    @staticmethod
    def reads(cfg: DptHead) -> FeatureRequest:  # noqa: ARG004
        return FeatureRequest(depths=(1 / 4, 1 / 2, 3 / 4, 1.0))

    def forward(self, features: list[Tensor]) -> tuple[Tensor, list[tuple[Tensor, float]]]:
        return self.classifier(self.decoder(features, [None] * len(features))), []
