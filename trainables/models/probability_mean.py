"""Several networks of one recipe as one, which votes with the mean of their probabilities."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from trainables.models.segmentor import Segmentor

MIN_LOG = -60000.0  # float16 holds it, and its exponential is 0


class ProbabilityMean(nn.Module):
    """image (B,3,H,W) -> log of the mean over networks of their softmax probabilities (B,K,h,w), float32, taken at the
    head's own grid. Its softmax is that mean, so it stands wherever one network's logits do."""

    def __init__(self, models: Sequence[Segmentor]) -> None:
        super().__init__()
        self.models = nn.ModuleList(models)
        self.stride, self.mean, self.std = models[0].stride, models[0].mean, models[0].std

    @property
    def networks(self) -> list[Segmentor]:
        return [model for model in self.models if isinstance(model, Segmentor)]

    def forward(self, image: Tensor) -> Tensor:
        first, *others = self.models
        total: Tensor = first(image).float().log_softmax(1)
        for model in others:
            total = torch.logaddexp(total, model(image).float().log_softmax(1))
        return (total - math.log(len(self.models))).clamp(min=MIN_LOG)


Network = Segmentor | ProbabilityMean
