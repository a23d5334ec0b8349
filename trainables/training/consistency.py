"""Weak-to-strong consistency on unlabelled images, in the manner of UniMatch (Yang et al., Revisiting Weak-to-Strong
Consistency in Semi-Supervised Semantic Segmentation, 2023, section 3).

What the network itself says of a weakly augmented image, where it is sure, is the label of two strongly augmented views
of it, mixed by CutMix within the batch, and of its own features with half of the channels dropped:

    L = L_labelled + weight * (1/4 CE(strong 1) + 1/4 CE(strong 2) + 1/2 CE(perturbed features))

Each CE is the sum over sure pixels by the number of pixels of the image, sure or not.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from trainables.models.resize import upsample
from trainables.models.segmentor import Segmentor
from trainables.training.losses import SegmentationLoss
from trainables.training.self_training import Consistency
from trainables.training.training_step import TrainingStep

CUTMIX_P = 0.5  # as are the box's sizes, the paper's choice
BOX_AREA = (0.02, 0.4)  # shares of the crop
BOX_RATIO = (0.3, 1 / 0.3)
DROPPED = 0.5  # channels of the features


class ConsistencyStep(TrainingStep):
    """Its forward takes, beyond a trial's (image (B,3,H,W), label, whole), `strong` (B,2,3,H,W), and `valid` (B,H,W):
    the pixels of unlabelled images, without padding; and how many of them the whole batch has, () or None."""

    def __init__(self, model: Segmentor, loss: SegmentationLoss, consistency: Consistency) -> None:
        super().__init__(model, loss)
        self.consistency = consistency

    def forward(  # type: ignore[override]
        self,
        image: Tensor,
        label: Tensor,
        whole: Tensor | None,
        strong: Tensor,
        valid: Tensor,
        valid_whole: Tensor | None,
    ) -> Tensor:
        size = (label.shape[1], label.shape[2])
        features = self.model.backbone(image)  # crops are multiples of 32 px: nothing is padded
        logits, aux = self.model.head(features)
        main = upsample(logits.float(), self.model.stride, size)
        total: Tensor = self.loss(main, label, whole)
        for extra, weight in aux:
            total = total + weight * self._auxiliary(extra, label, whole)
        new = valid.flatten(1).any(1)  # (B,): the unlabelled images
        if not bool(new.any()):
            return total
        sure, said = self._own_labels(main[new], valid[new])
        count = valid.sum() if valid_whole is None else valid_whole
        perturbed, _ = self.model.head([F.dropout2d(each[new], DROPPED) for each in features])
        own = _sure_loss(upsample(perturbed.float(), self.model.stride, size), said, sure, count) / 2
        for view in range(strong.shape[1]):
            boxes = cutmix_boxes(len(said), size).to(sure.device)
            mixed = [mix(each, boxes) for each in (strong[new, view], said, sure)]
            seen = upsample(self.model(mixed[0]).float(), self.model.stride, size)
            own = own + _sure_loss(seen, mixed[1], mixed[2], count) / 4
        return total + self.consistency.weight * own

    def _own_labels(self, logits: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:  # (N,K,H,W) -> (N,H,W) bool, int64
        confidence, said = logits.detach().softmax(1).max(1)
        return (confidence >= self.consistency.confidence) & valid, said


def _sure_loss(logits: Tensor, said: Tensor, sure: Tensor, count: Tensor) -> Tensor:
    with torch.autocast(logits.device.type, enabled=False):
        per_pixel = F.cross_entropy(logits.float(), said, reduction="none")  # (N,H,W)
        return (per_pixel * sure).sum() / count.float().clamp_min(1.0)


def cutmix_boxes(count: int, size: tuple[int, int]) -> Tensor:
    """(N,H,W) bool: of half of the images a box, drawn from torch's global generator on the CPU, whose state is in a
    checkpoint."""
    height, width = size
    boxes = torch.zeros(count, height, width, dtype=torch.bool)
    for n in range(count):
        mixed, area, ratio, down, right = torch.rand(5).tolist()
        share = BOX_AREA[0] + (BOX_AREA[1] - BOX_AREA[0]) * area
        aspect = BOX_RATIO[0] + (BOX_RATIO[1] - BOX_RATIO[0]) * ratio
        box_height = min(height, max(1, round((share * height * width * aspect) ** 0.5)))
        box_width = min(width, max(1, round((share * height * width / aspect) ** 0.5)))
        if mixed < CUTMIX_P:
            top, left = int(down * (height - box_height + 1)), int(right * (width - box_width + 1))
            boxes[n, top : top + box_height, left : left + box_width] = True
    return boxes


def mix(images: Tensor, boxes: Tensor) -> Tensor:  # (N,..,H,W), (N,H,W) -> (N,..,H,W)
    """Each image with its box taken from the next one."""
    where = boxes[:, None] if images.ndim == boxes.ndim + 1 else boxes
    return torch.where(where, images.roll(-1, 0), images)
