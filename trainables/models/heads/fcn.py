"""A fully convolutional head on one level (Long 2015), the auxiliary head of the others: (B,C,h,w) -> (B,K,h,w)."""

from __future__ import annotations

from torch import Tensor, nn

from trainables.models.heads.classifier import Classifier
from trainables.models.heads.conv_norm import conv_norm_relu


class FCNHead(nn.Module):
    """One 3x3 block, dropout, a 1x1 classifier (PSPNet's auxiliary branch, Zhao 2017, section 3.3)."""

    def __init__(self, in_channels: int, channels: int, num_classes: int, dropout: float) -> None:
        super().__init__()
        self.block = conv_norm_relu(in_channels, channels, 3)
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = Classifier(channels, num_classes, 1)

    def forward(self, feature: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.dropout(self.block(feature)))
        return logits
