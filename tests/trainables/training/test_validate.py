from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from trainables.logits.predict_views import Inference
from trainables.recipe.recipe import Loss
from trainables.training.losses import build_loss
from trainables.training.validate import validate


class FakeCache:
    index = SimpleNamespace(num_classes=3, ignore_index=255)

    def __init__(self, ignored=False):
        rng = np.random.default_rng(0)
        sizes = {"a": (32, 40), "b": (50, 64), "c": (32, 40)}
        self.images = {name: rng.integers(0, 256, (*size, 3), dtype=np.uint8) for name, size in sizes.items()}
        self.labels = {name: rng.choice([0, 1, 2, 255], size).astype(np.uint8) for name, size in sizes.items()}
        if ignored:
            self.labels = {name: np.full_like(label, 255) for name, label in self.labels.items()}
        for label in self.labels.values():
            label.flags.writeable = False

    def image(self, image_id):
        return self.images[image_id]

    def label(self, image_id):
        return self.labels[image_id]

    def size(self, image_id):
        return self.images[image_id].shape[:2]


class Constant(nn.Module):
    """Logits that do not depend on the image, so that resizing keeps them."""

    mean, std, stride = (0.0,) * 3, (1.0,) * 3, 4

    def forward(self, image):
        one = torch.tensor([0.5, 2.0, -1.0]).view(1, 3, 1, 1)
        return one.expand(len(image), 3, image.shape[2] // 4, image.shape[3] // 4)


def _validate(cache, loss):
    return validate(Inference(Constant(), None, "cpu", 2, "off"), loss, cache, ["a", "b", "c"])


def test_scores_are_those_of_all_pixels_together():
    cache = FakeCache()
    pixels = np.array([10, 20, 40])
    loss = build_loss(Loss(class_weights="inverse_sqrt"), 3, pixels)
    scores = _validate(cache, loss)
    true = np.concatenate([label.ravel() for label in cache.labels.values()])
    logits = torch.tensor([0.5, 2.0, -1.0]).expand(len(true), 3)
    wanted = F.cross_entropy(logits, torch.from_numpy(true).long(), loss.class_weight, ignore_index=255)
    assert scores.loss == pytest.approx(wanted.item(), rel=1e-5)
    share = (true == 1).sum() / (true != 255).sum()
    assert scores.miou == pytest.approx(share / 3)
    assert scores.iou == pytest.approx([0, share, 0])


def test_labels_without_a_pixel_that_counts_are_an_error():
    with pytest.raises(ValueError, match="must have labelled pixels, got 3 images with none"):
        _validate(FakeCache(ignored=True), build_loss(Loss(), 3))
