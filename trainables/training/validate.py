"""Scores a model on labelled images: the loss and ONE confusion matrix summed over images.

Both are taken at the labels' own resolution and from the same float16 logits as the logit store's view s1.00-none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainables.data.cache import Cache
from trainables.logits.predict_views import Inference, at_label_size, view_batches
from trainables.logits.view import View
from trainables.metrics import confusion, confusion_torch, iou, miou
from trainables.ranks import ALONE, Ranks
from trainables.training.losses import SegmentationLoss


@dataclass(frozen=True)
class Scores:
    """`loss` is the mean over images weighted by their pixels that count; `conf` (K,K) is [true, predicted]."""

    loss: float
    conf: NDArray[np.int64]

    @property
    def miou(self) -> float:
        return float(miou(self.conf))

    @property
    def iou(self) -> list[float]:  # K, NaN for a class that does not occur
        return [float(value) for value in iou(self.conf)]


@torch.no_grad()
def validate(
    inference: Inference, loss: SegmentationLoss, cache: Cache, ids: Sequence[str], ranks: Ranks = ALONE
) -> Scores:
    """Score a model on `ids`, which the `ranks` share. Raises ValueError where no labelled pixel counts."""
    device = inference.device
    num_classes, ignore_index = cache.index.num_classes, cache.index.ignore_index
    sums = torch.zeros(2, dtype=torch.float64, device=device)  # loss times weight, weight
    counts = torch.zeros(num_classes, num_classes, dtype=torch.int64, device=device)
    for batch_ids, logits in view_batches(inference, cache, ranks.share(ids), View()):
        for image_id, one in zip(batch_ids, logits, strict=True):  # (K,h,w)
            true = np.array(cache.label(image_id))  # (H,W); own memory, as torch takes no read-only arrays
            label = torch.from_numpy(true).to(device)
            full = at_label_size(one[None], true.shape)  # (1,K,H,W)
            sums += _weighted(loss, full, label[None].long())
            pred = full[0].argmax(0).to(torch.uint8)  # (H,W)
            if device == "cpu":
                counts += torch.from_numpy(confusion(true, pred.numpy(), num_classes, ignore_index))
            else:
                counts += confusion_torch(label, pred, num_classes, ignore_index)
    conf: NDArray[np.int64] = ranks.sum(counts).cpu().numpy()
    if not conf.any():
        raise ValueError(
            f"a validation split must have labelled pixels, got {len(ids)} images with none; check the labels"
        )
    total, weight = ranks.sum(sums).tolist()
    return Scores(total / weight if weight else 0.0, conf)


def no_scores(num_classes: int) -> Scores:
    """Of a trial without images to validate on: all are NaN."""
    return Scores(float("nan"), np.zeros((num_classes, num_classes), np.int64))


def _weighted(loss: SegmentationLoss, logits: Tensor, label: Tensor) -> Tensor:  # -> (2,)
    weight = loss.weight(label)
    return torch.stack([loss(logits, label) * weight, weight]).double()
