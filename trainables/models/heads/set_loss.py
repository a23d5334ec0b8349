"""The set loss of mask classification (Cheng 2021, MaskFormer, section 3.2, eq. 2), over all pixels.

The segments of an image are its classes: all pixels of one class are one segment. Each is matched with one query, so
that the sum of the pairs' costs is least (Hungarian matching). A query learns its segment's class and mask, and a query
without one learns "no segment" with weight 0.1. Cost and loss of a pair are the same sum, with Mask2Former's weights
(Cheng 2022, section 4.1): 5 cross-entropy per pixel + 5 Dice + 2 class, where the matching reads -p of the class and
the loss -log p. Dice is Milletari's (2016, eq. 3) with plain sums in the denominator and 1 added above and below.

Masks (B,Q,h,w) lie at a stride, labels at full size. A cell of the grid counts the pixels of each class in it, which
makes both mask terms those of all pixels for a mask that is constant in a cell: they are linear in the truth. Ignored
pixels count in no cell.

Differences: terms are means within an image, not over the batch's segments, so that the loss of a batch is a weighted
mean over its images, whichever of them a micro-batch or a rank holds; no points are sampled.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional

PIXEL_WEIGHT, DICE_WEIGHT, CLASS_WEIGHT = 5.0, 5.0, 2.0
NO_SEGMENT_WEIGHT = 0.1  # of the class term of a query that is matched with none


@dataclass(frozen=True)
class MaskPredictions:
    """What the queries say after each decoder layer, and its loss: see `trainables.models.heads.OwnLoss`.

    A layer is class logits (B,Q,K+1), "no segment" last, and mask logits (B,Q,h,w) at `stride`.
    """

    layers: Sequence[tuple[Tensor, Tensor]]
    stride: int

    def of_images(self, label: Tensor, ignore_index: int) -> Tensor:  # (B,H,W) -> (B,)
        """The sum of the layers' set losses of each image; without mask terms where every pixel is ignored."""
        with torch.autocast(label.device.type, enabled=False):
            classes = [logits.float() for logits, _ in self.layers]
            grid = (self.layers[0][1].shape[2], self.layers[0][1].shape[3])
            pixels = class_pixels(label, classes[0].shape[2] - 1, grid, self.stride, ignore_index)
            present = pixels.flatten(2).any(2)  # (B,K)
            masks = [mask_costs(logits.float(), pixels) for _, logits in self.layers]
            costs = [
                cost - CLASS_WEIGHT * said.softmax(2)[:, :, :-1] for cost, said in zip(masks, classes, strict=True)
            ]
            # all layers at once: each look at a GPU's costs waits for it
            queries = assign(torch.cat(costs).detach(), present.repeat(len(costs), 1)).chunk(len(costs))
            losses = [
                _matched_loss(said, cost, query, present)
                for said, cost, query in zip(classes, masks, queries, strict=True)
            ]
            return torch.stack(losses).sum(0)


def class_pixels(
    label: Tensor, num_classes: int, grid: tuple[int, int], stride: int, ignore_index: int
) -> Tensor:  # (B,H,W) -> (B,K,h,w)
    """How many pixels of each class each cell of `grid` = (h,w) has; what the grid overhangs is ignored."""
    below, right = (cells * stride - side for cells, side in zip(grid, label.shape[1:], strict=True))
    padded = functional.pad(label, (0, right, 0, below), value=ignore_index)
    cells = padded.reshape(len(label), grid[0], stride, grid[1], stride).permute(0, 2, 4, 1, 3)
    cells = cells.flatten(1, 2)  # (B,s*s,h,w)
    kinds = torch.where(cells == ignore_index, num_classes, cells)
    counts = torch.zeros(len(label), num_classes + 1, *grid, device=label.device)
    return counts.scatter_add_(1, kinds, torch.ones_like(kinds, dtype=counts.dtype))[:, :-1]


def mask_costs(masks: Tensor, pixels: Tensor) -> Tensor:  # (B,Q,h,w), (B,K,h,w) -> (B,Q,K)
    """The weighted cross-entropy and Dice terms of every query's mask with every class's pixels."""
    masks, pixels = masks.flatten(2), pixels.flatten(2)
    inside, counted = masks.sigmoid(), pixels.sum(1)  # counted: (B,P), pixels that are not ignored
    # of a pixel softplus(m) - m y: the logit itself is taken where the class is
    all_outside = torch.einsum("bqp,bp->bq", functional.softplus(masks), counted)
    cross_entropy = all_outside[:, :, None] - torch.einsum("bqp,bkp->bqk", masks, pixels)
    overlap = torch.einsum("bqp,bkp->bqk", inside, pixels)
    sizes = torch.einsum("bqp,bp->bq", inside, counted)[:, :, None] + pixels.sum(2)[:, None]
    dice = 1 - (2 * overlap + 1) / (sizes + 1)
    return PIXEL_WEIGHT * cross_entropy / counted.sum(1).clamp_min(1)[:, None, None] + DICE_WEIGHT * dice


# an operator of its own, for what runs without values: fake tensors, torch.compile
@torch.library.custom_op("segsearch::assign", mutates_args=(), schema="(Tensor cost, Tensor present) -> Tensor")
def assign(cost: Tensor, present: Tensor) -> Tensor:  # (B,Q,K), (B,K) bool -> (B,K) int64
    """The query of each class that is present, all different, at the least total cost; Q for an absent class.

    A cost that is not finite counts as 0 or as a bound: the loss itself says that the trial has diverged.
    """
    found = torch.full(present.shape, cost.shape[1], dtype=torch.int64)
    for row, there, costs in zip(found, present.cpu(), cost.nan_to_num().cpu(), strict=True):
        queries, columns = linear_sum_assignment(costs[:, there].numpy())
        row[torch.nonzero(there)[columns, 0]] = torch.from_numpy(queries)
    return found.to(cost.device)


@assign.register_fake
def _assign_without_values(cost: Tensor, present: Tensor) -> Tensor:  # noqa: ARG001
    return torch.empty_like(present, dtype=torch.int64)


def _matched_loss(classes: Tensor, masks: Tensor, query: Tensor, present: Tensor) -> Tensor:
    """Class logits (B,Q,K+1), mask costs (B,Q,K), queries (B,K) of the classes, of which some are present -> (B,)."""
    num_queries, num_classes = masks.shape[1:]
    wanted = torch.full((len(query), num_queries + 1), num_classes, device=query.device)
    wanted = wanted.scatter(1, query, torch.arange(num_classes, device=query.device).expand_as(query))[:, :-1]
    weight = torch.where(wanted == num_classes, NO_SEGMENT_WEIGHT, 1.0)  # (B,Q)
    said = functional.cross_entropy(classes.transpose(1, 2), wanted, reduction="none")
    class_term = (weight * said).sum(1) / weight.sum(1)
    matched = masks.gather(1, query.clamp_max(num_queries - 1)[:, None])[:, 0]  # (B,K)
    mask_term = torch.where(present, matched, 0.0).sum(1) / present.sum(1).clamp_min(1)
    return CLASS_WEIGHT * class_term + mask_term
