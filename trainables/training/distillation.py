"""Distillation: the student's loss against a teacher's softened probabilities (Hinton et al. 2015, section 2).

    alpha * L(labels) + (1 - alpha) * T^2 * KL(softmax(z_teacher / T) || softmax(z_student / T))

KL is the mean over the pixels of which the teacher says something: every SOFT_STRIDE_PX-th of a crop in both
directions. T^2 keeps the size of its gradients as T changes. Unlabelled images have the second term alone.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from trainables.data.augment.train_set import SOFT_START_PX, SOFT_STRIDE_PX
from trainables.logits.store import LogitStore
from trainables.logits.view import View

SOFT_VIEW = View().name  # the only view of a store of soft labels


@dataclass(frozen=True)
class SoftLabels:
    """A teacher's log probabilities of the training images, as a logit store, and how the student weighs them. Plain
    values: they can be sent to another process."""

    folder: Path
    fingerprint: str  # of the teacher and its images
    alpha: float = 0.5  # share of the labels' loss
    temperature: float = 2.0

    @property
    def identity(self) -> str:
        """Changes with whatever changes the training."""
        return hashlib.sha256(json.dumps([self.fingerprint, self.alpha, self.temperature]).encode()).hexdigest()[:16]

    @cached_property
    def _store(self) -> LogitStore:
        return LogitStore(self.folder)

    def grid(self, image_id: str) -> NDArray[np.float32]:
        """Logits (K,h,w) on a grid that covers the image. Raises ValueError for an image without any."""
        return self._store.logits(SOFT_VIEW, image_id).astype(np.float32)


def known_pixels(soft: Tensor) -> Tensor:  # (B,K,h,w) -> ()
    """How many pixels the teacher says something of."""
    return (~soft[:, 0].isnan()).sum().float()


def soft_loss(
    logits: Tensor, soft: Tensor, temperature: float, whole: Tensor | None = None
) -> Tensor:  # (B,K,H,W) of the student, (B,K,H/4,W/4) of the teacher -> ()
    """T^2 KL(teacher || student), the mean over known pixels; 0 where there are none.

    Given the number of known pixels of the `whole` batch (), the part of these images in its loss.
    """
    with torch.autocast(logits.device.type, enabled=False):
        known = ~soft[:, 0].isnan()  # (B,h,w)
        student = logits.float()[:, :, SOFT_START_PX::SOFT_STRIDE_PX, SOFT_START_PX::SOFT_STRIDE_PX]
        teacher = F.log_softmax(soft.float().nan_to_num(0.0) / temperature, dim=1)
        student = F.log_softmax(student / temperature, dim=1)
        per_pixel = (teacher.exp() * (teacher - student)).sum(1)  # (B,h,w)
        count = known.sum().float() if whole is None else whole
        return temperature**2 * (per_pixel * known).sum() / count.clamp_min(1.0)
