"""Losses of logits (B,K,H,W) against labels (B,H,W) int64, in which IGNORE_INDEX pixels are left out.

A loss is one float32 scalar with gradient, 0 (not NaN) for a batch without a pixel that counts.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from segmentation_models_pytorch.losses import MULTICLASS_MODE, DiceLoss
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

    Terms over pixels (cross-entropy, focal) are means weighted by the class of the truth. Terms over classes (smp's
    Dice, and Lovász) take every class of the batch alike already, and no class weights.
    """

    class_weight: Tensor | None  # (K,)

    def __init__(self, terms: tuple[str, ...], class_weight: Tensor | None, ignore_index: int) -> None:
        super().__init__()
        self.terms = terms
        self.ignore_index = ignore_index
        self.register_buffer("class_weight", class_weight)
        self.dice = DiceLoss(MULTICLASS_MODE, ignore_index=ignore_index)

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
            return lovasz_softmax(logits.softmax(1), label, self.ignore_index)
        per_pixel = F.cross_entropy(logits, label, ignore_index=self.ignore_index, reduction="none")  # (B,H,W)
        if name == "focal":
            per_pixel = per_pixel * (1.0 - torch.exp(-per_pixel)) ** _FOCAL_GAMMA
        if self.class_weight is not None:
            per_pixel = per_pixel * self.class_weight[label.clamp_max(len(self.class_weight) - 1)]
        return per_pixel.sum() / weight.clamp_min(1e-12)


def lovasz_softmax(probabilities: Tensor, label: Tensor, ignore_index: int) -> Tensor:  # (B,K,H,W), (B,H,W) -> ()
    """The mean over the classes that occur of the Lovász extension of their Jaccard loss (Berman et al. 2018, eq. 8).

    All classes are sorted at once, and nothing is read back from the device. The sums are of whole numbers, hence the
    same in any order.
    """
    flat = probabilities.transpose(0, 1).flatten(1)  # (K,P)
    counts = (label != ignore_index).flatten()  # (P,)
    kinds = torch.arange(len(flat), device=label.device)[:, None]
    truth = (label.flatten() == kinds) & counts  # (K,P)
    errors = torch.where(counts, (truth.float() - flat).abs(), 0.0)
    present = truth.any(1)
    per_class = (errors * jaccard_growth(errors.detach(), truth, counts)).sum(1)
    return (per_class * present).sum() / present.sum().clamp_min(1)


@torch.no_grad()
def jaccard_growth(errors: Tensor, truth: Tensor, counts: Tensor) -> Tensor:  # (K,P), (K,P) bool, (P,) bool -> (K,P)
    """By how much a class's Jaccard loss grows as each pixel joins the wrong ones, largest error first (Berman et al.,
    algorithm 1); 0 for pixels that do not count."""
    order = errors.masked_fill(~counts, -1.0).argsort(dim=1, descending=True)
    found = truth.gather(1, order)
    total = truth.sum(1, keepdim=True)
    missed = found.cumsum(1, dtype=torch.int32)
    added = (~found).cumsum(1, dtype=torch.int32)
    jaccard = 1.0 - (total - missed).float() / (total + added).float()
    growth = torch.cat([jaccard[:, :1], jaccard.diff(dim=1)], dim=1)
    return torch.zeros_like(errors).scatter_(1, order, growth).masked_fill_(~counts, 0.0)


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
