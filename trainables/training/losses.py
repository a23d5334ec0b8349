"""Losses of logits (B,K,H,W) against labels (B,H,W) int64, in which IGNORE_INDEX pixels are left out.

A loss is one float32 scalar with gradient, 0 (not NaN) for a batch without a pixel that counts.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from segmentation_models_pytorch.losses import MULTICLASS_MODE, DiceLoss, LovaszLoss
from torch import Tensor, nn
from torch.nn import functional as F

from trainables.data.index import IGNORE_INDEX
from trainables.recipe.recipe import Loss

_TERMS = {
    "cross_entropy": ("cross_entropy",),
    "focal": ("focal",),
    "dice": ("dice",),
    "lovasz": ("lovasz",),
    "ce_dice": ("cross_entropy", "dice"),
    "ce_lovasz": ("cross_entropy", "lovasz"),
}
_FOCAL_GAMMA = 2.0  # the paper's choice


class SegmentationLoss(nn.Module):
    """The plain sum of a loss's terms.

    Terms over pixels (cross-entropy, focal) are means weighted by the class of the truth. Terms over classes (Dice and
    Lovász, from smp) take every class of the batch alike already, and no class weights.
    """

    class_weight: Tensor | None  # (K,)

    def __init__(self, terms: tuple[str, ...], class_weight: Tensor | None, ignore_index: int) -> None:
        super().__init__()
        self.terms = terms
        self.ignore_index = ignore_index
        self.register_buffer("class_weight", class_weight)
        self.dice = DiceLoss(MULTICLASS_MODE, ignore_index=ignore_index)
        self.lovasz = LovaszLoss(MULTICLASS_MODE, ignore_index=ignore_index)

    def weight(self, label: Tensor) -> Tensor:  # (B,H,W) -> ()
        """Weight of these labels in a mean over batches: their pixels, by class weight where there is one."""
        counts = label != self.ignore_index
        if self.class_weight is None:
            return counts.sum().float()
        return self.class_weight[torch.where(counts, label, 0)].masked_fill(~counts, 0.0).sum()

    def forward(self, logits: Tensor, label: Tensor, whole: Tensor | None = None) -> Tensor:  # (B,K,H,W), (B,H,W) -> ()
        """The loss of these labels or, given the `weight` () of the whole batch, their part in the batch's loss.

        The parts of a batch's micro-batches sum to its loss: exactly for terms over pixels; for terms over classes,
        which no sum over pixels can give, to the mean over micro-batches weighted by their pixels. A part of a batch
        is also what one of several ranks sees.
        """
        with torch.autocast(logits.device.type, enabled=False):
            logits = logits.float()  # softmax and sums over millions of pixels need float32 under AMP
            own = self.weight(label)
            share = 1.0 if whole is None else own / whole.clamp_min(1e-12)
            total = torch.stack([self._term(name, logits, label, own) for name in self.terms]).sum()
            return total * share

    def _term(self, name: str, logits: Tensor, label: Tensor, weight: Tensor) -> Tensor:
        if name == "dice":
            loss: Tensor = self.dice(logits, label)
            return loss
        if name == "lovasz":
            # smp gives an empty (0,K) tensor, not a scalar, where every pixel is ignored
            loss = self.lovasz(logits, label)
            return loss if loss.ndim == 0 else logits.sum() * 0.0
        per_pixel = F.cross_entropy(logits, label, ignore_index=self.ignore_index, reduction="none")  # (B,H,W)
        if name == "focal":
            per_pixel = per_pixel * (1.0 - torch.exp(-per_pixel)) ** _FOCAL_GAMMA
        if self.class_weight is not None:
            per_pixel = per_pixel * self.class_weight[label.clamp_max(len(self.class_weight) - 1)]
        return per_pixel.sum() / weight.clamp_min(1e-12)


def inverse_sqrt_weights(class_pixels: NDArray[np.int64]) -> NDArray[np.float32]:  # (K,) -> (K,)
    """1 / sqrt(pixels), with a mean of 1 over the classes that have any.

    A class without a pixel gets 0: nothing can be learnt of it, so it shall not move the validation loss either.
    """
    present = class_pixels > 0
    if not present.any():
        raise ValueError(
            "class weights need labelled train pixels, got none; check the labels or use class_weights 'none'"
        )
    weights = np.zeros(len(class_pixels))
    weights[present] = 1.0 / np.sqrt(class_pixels[present])
    normalised: NDArray[np.float32] = (weights / weights[present].mean()).astype(np.float32)
    return normalised


def build_loss(
    cfg: Loss,
    num_classes: int,
    class_pixels: NDArray[np.int64] | None = None,
    ignore_index: int = IGNORE_INDEX,
) -> SegmentationLoss:
    """The loss that `cfg` names; `class_pixels` (K,) of the train split are needed for class weights alone.

    focal: (1 - p)^2 CE over the softmax (Lin et al., Focal Loss for Dense Object Detection, eq. 4, multi-class), not
    smp's, which is one sigmoid per class and NaN where all pixels are ignored: ensembles average softmax probabilities.
    dice: Milletari et al., V-Net, eq. 3, over the batch; lovasz: Berman et al., The Lovász-Softmax loss, eq. 8.
    Class weights weigh the terms over pixels (cross-entropy, focal); `Loss` refuses them where there is none.
    """
    terms = _TERMS[cfg.name]
    if cfg.class_weights == "none":
        return SegmentationLoss(terms, None, ignore_index)
    assert class_pixels is not None, "the caller counts the train split's pixels where weights are asked for"
    assert class_pixels.shape == (num_classes,)
    return SegmentationLoss(terms, torch.from_numpy(inverse_sqrt_weights(class_pixels)), ignore_index)
