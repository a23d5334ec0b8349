"""The set loss against one written as loops over images, classes and pixels, and its matching against all others."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from trainables.models.heads.set_loss import MaskPredictions, assign, class_pixels
from trainables.models.segmentor import Outputs
from trainables.recipe.recipe import Loss
from trainables.training.distillation import SoftLabels, soft_loss
from trainables.training.losses import build_loss
from trainables.training.training_step import TrainingStep

NUM_CLASSES, NUM_QUERIES, STRIDE, GRID = 4, 5, 4, (3, 4)
HEIGHT, WIDTH = 11, 14  # the grid overhangs both


def drawn(num_images: int = 3, num_layers: int = 2) -> tuple[MaskPredictions, Tensor]:
    """Predictions that ask for a gradient, and labels (B,11,14): class 3 is absent from the first image, some pixels
    are ignored."""
    generator = torch.Generator().manual_seed(0)
    layers = [
        (
            torch.randn(num_images, NUM_QUERIES, NUM_CLASSES + 1, generator=generator).requires_grad_(),
            (3 * torch.randn(num_images, NUM_QUERIES, *GRID, generator=generator)).requires_grad_(),
        )
        for _ in range(num_layers)
    ]
    label = torch.randint(0, NUM_CLASSES, (num_images, HEIGHT, WIDTH), generator=generator)
    label[0][label[0] == 3] = 0
    label[torch.rand(label.shape, generator=generator) < 0.2] = 255
    return MaskPredictions(layers, STRIDE), label


def pair_cost(mask: Tensor, segment: Tensor) -> Tensor:
    """5 cross-entropy + 5 Dice over the pixels (P,) that count."""
    cross_entropy = functional.binary_cross_entropy_with_logits(mask, segment)
    inside = mask.sigmoid()
    dice = 1 - (2 * (inside * segment).sum() + 1) / (inside.sum() + segment.sum() + 1)
    return 5 * cross_entropy + 5 * dice


def set_loss_of_image(classes: Tensor, masks: Tensor, label: Tensor) -> Tensor:
    """(Q,K+1), (Q,h,w), (H,W) -> (): the best of all matchings, tried one by one."""
    full = masks.repeat_interleave(STRIDE, 1).repeat_interleave(STRIDE, 2)[:, : label.shape[0], : label.shape[1]]
    counted = label != 255
    shown = [k for k in range(NUM_CLASSES) if (label == k).any()]
    pairs = {
        (q, k): pair_cost(full[q][counted], (label[counted] == k).float()) for q in range(NUM_QUERIES) for k in shown
    }
    chance = classes.softmax(1)
    best = min(
        itertools.permutations(range(NUM_QUERIES), len(shown)),
        key=lambda queries: sum((pairs[q, k] - 2 * chance[q, k]).item() for q, k in zip(queries, shown, strict=True)),
    )
    wanted = dict(zip(best, shown, strict=True))
    weights = [1.0 if q in wanted else 0.1 for q in range(NUM_QUERIES)]
    said = [-weights[q] * classes[q].log_softmax(0)[wanted.get(q, NUM_CLASSES)] for q in range(NUM_QUERIES)]
    matched = [pairs[q, k] for q, k in wanted.items()]
    return 2 * torch.stack(said).sum() / sum(weights) + torch.stack(matched).mean()


def test_the_loss_is_that_of_loops_over_pixels_and_all_matchings() -> None:
    predictions, label = drawn()
    expected = torch.stack(
        [
            torch.stack([set_loss_of_image(c[i], m[i], label[i]) for c, m in predictions.layers]).sum()
            for i in range(len(label))
        ]
    )
    found = predictions.of_images(label, 255)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    tensors = [tensor for layer in predictions.layers for tensor in layer]
    for one, other in zip(*(torch.autograd.grad(x.sum(), tensors) for x in (found, expected)), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_the_matching_is_the_best_of_all(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    cost = torch.randn(3, 5, 4, generator=generator)
    present = torch.rand(3, 4, generator=generator) < 0.7
    for queries, there, costs in zip(assign(cost, present), present, cost, strict=True):
        shown = torch.nonzero(there)[:, 0].tolist()
        assert (queries[~there] == 5).all()
        assert len(set(queries[there].tolist())) == len(shown)
        least = min(
            sum(float(costs[q, k]) for q, k in zip(order, shown, strict=True))
            for order in itertools.permutations(range(5), len(shown))
        )
        assert float(costs[queries[there], shown].sum()) == pytest.approx(least)


def test_every_pixel_that_counts_is_in_one_cell() -> None:
    _, label = drawn()
    pixels = class_pixels(label, NUM_CLASSES, GRID, STRIDE, 255)
    assert pixels.sum() == (label != 255).sum()
    for k in range(NUM_CLASSES):
        assert pixels[0, k, 1, 2] == (label[0, 4:8, 8:12] == k).sum()


def test_the_operator_is_what_torch_asks_of_one() -> None:
    cost, present = torch.randn(2, 5, 4), torch.ones(2, 4, dtype=torch.bool)
    torch.library.opcheck(assign, (cost, present), test_utils=("test_schema", "test_faketensor"))


@dataclass
class Said:
    """Stands for a model: images (B,1,1,1) hold the numbers of the predictions that are theirs."""

    predictions: MaskPredictions
    stride: int = STRIDE

    def forward_all(self, image: Tensor) -> Outputs:
        rows = image[:, 0, 0, 0].long()
        own = MaskPredictions([(c[rows], m[rows]) for c, m in self.predictions.layers], STRIDE)
        return Outputs(torch.zeros(len(rows), NUM_CLASSES, *GRID), [(own, 0.5)])


def step_of(predictions: MaskPredictions, loss: Loss, teacher: SoftLabels | None = None) -> nn.Module:
    return TrainingStep(Said(predictions), build_loss(loss, NUM_CLASSES, np.array([100, 50, 20, 5])), teacher)  # type: ignore[arg-type]


def test_a_student_learns_sets_from_labels_and_probabilities_by_its_logits(tmp_path: Path) -> None:
    predictions, label = drawn()
    image, soft = torch.arange(3.0)[:, None, None, None], torch.randn(3, NUM_CLASSES, 3, 3)  # every fourth pixel
    plain = step_of(predictions, Loss())(image, label, None)
    taught = step_of(predictions, Loss(), SoftLabels(tmp_path, "", alpha=0.3))(image, label, None, soft)
    by_logits = soft_loss(torch.zeros(3, NUM_CLASSES, HEIGHT, WIDTH), soft, 2.0)
    torch.testing.assert_close(taught, 0.3 * plain + 0.7 * by_logits)


@pytest.mark.parametrize("loss", [Loss(), Loss(class_weights="inverse_sqrt")])
def test_parts_of_micro_batches_sum_to_the_batch(loss: Loss) -> None:
    predictions, label = drawn()
    label[1] = 255  # a micro-batch without a pixel that counts
    image = torch.arange(3.0)[:, None, None, None]
    step = step_of(predictions, loss)
    whole = step.loss.weight(label)
    parts = [step(image[i : i + 1], label[i : i + 1], whole) for i in range(3)]
    together = step(image, label, None)
    torch.testing.assert_close(torch.stack(parts).sum(), together)
    [gradient] = torch.autograd.grad(together, predictions.layers[0][1])
    assert gradient[1].abs().max() == 0
    assert gradient[0].abs().max() > 0


def test_a_diverged_network_has_a_loss_that_says_so() -> None:
    predictions, label = drawn()
    broken = MaskPredictions([(c, m * float("nan")) for c, m in predictions.layers], STRIDE)
    assert broken.of_images(label, 255).isnan().all()
