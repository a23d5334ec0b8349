"""The loss of a micro-batch as one module that can be compiled and shared by ranks.

What a head learns by a loss of its own is summed over images, each with the weight in the batch that its pixels have
in the recipe's loss.

The module maps (image (B,3,H,W), label (B,H,W), weight () of the whole batch or None) to loss (); a student's also
takes its teacher's logits (B,K,H/4,W/4) and how many of their pixels the whole batch knows, () or None. It holds the
segmentor itself, whose state dict keeps its plain names.
"""

from __future__ import annotations

import functools
import logging

import torch
from torch import Tensor, nn

from trainables.models.heads import OwnLoss
from trainables.models.resize import upsample
from trainables.models.segmentor import Segmentor
from trainables.training.distillation import SoftLabels, soft_loss
from trainables.training.losses import SegmentationLoss


class TrainingStep(nn.Module):
    """The sum of the main loss and the weighted auxiliary ones."""

    def __init__(self, model: Segmentor, loss: SegmentationLoss, teacher: SoftLabels | None = None) -> None:
        super().__init__()
        self.model = model
        self.loss = loss
        self.alpha = 1.0 if teacher is None else teacher.alpha
        self.temperature = 1.0 if teacher is None else teacher.temperature

    def forward(
        self,
        image: Tensor | tuple[Tensor, ...],
        label: Tensor,
        whole: Tensor | None,
        soft: Tensor | None = None,
        soft_whole: Tensor | None = None,
    ) -> Tensor:
        outputs = self.model.forward_all(image)
        size = (label.shape[1], label.shape[2])
        main = upsample(outputs.logits.float(), self.model.stride, size)
        total = self._loss(main, label, whole, soft, soft_whole)
        for extra, weight in outputs.aux:
            total = total + weight * self._auxiliary(extra, label, whole, soft, soft_whole)
        return total

    def _auxiliary(
        self,
        extra: Tensor | OwnLoss,
        label: Tensor,
        whole: Tensor | None,
        soft: Tensor | None = None,
        soft_whole: Tensor | None = None,
    ) -> Tensor:
        """Of a student, what has a loss of its own learns from the labels alone, with their share."""
        if not isinstance(extra, Tensor):
            weights = torch.stack([self.loss.weight(one) for one in label])  # (B,)
            total = weights.sum() if whole is None else whole
            own = (extra.of_images(label, self.loss.ignore_index) * weights).sum() / total.clamp_min(1e-12)
            return self.alpha * own
        stride = label.shape[1] // extra.shape[2]  # crops are multiples of 32 px
        full = upsample(extra.float(), stride, (label.shape[1], label.shape[2]))
        return self._loss(full, label, whole, soft, soft_whole)

    def _loss(
        self, logits: Tensor, label: Tensor, whole: Tensor | None, soft: Tensor | None, soft_whole: Tensor | None
    ) -> Tensor:
        hard: Tensor = self.loss(logits, label, whole)
        if soft is None:
            return hard
        return self.alpha * hard + (1 - self.alpha) * soft_loss(logits, soft, self.temperature, soft_whole)


def compiled(step: nn.Module, device: str) -> nn.Module:
    """`step` through torch.compile, or as it is, with a warning, where this machine cannot compile for `device`.

    Random numbers are drawn as without it, so that only the rounding differs.
    """
    missing = _what_compiling_lacks(torch.device(device).type)
    if missing:
        logging.getLogger(__name__).warning("train.compile has no effect on this machine: %s", missing)
        return step
    # torch compiles eight versions of one code, then silently no more, and a worker trains one network after another
    torch.compiler.reset()
    ready: nn.Module = torch.compile(step, dynamic=False, options={"fallback_random": True})  # type: ignore[assignment]
    return ready


@functools.cache
def _what_compiling_lacks(device_type: str) -> str:
    """Why torch.compile does not work here (no C++ compiler, no Triton); empty where it does."""
    try:
        torch.compile(torch.sin)(torch.zeros(8, device=device_type))
    except Exception as error:  # each back end has its own kind
        return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no reason given'}"
    return ""
