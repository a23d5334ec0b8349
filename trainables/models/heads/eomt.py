"""EoMT: mask classification by a plain transformer's own last blocks (Kerssies 2025).

The paper is "Your ViT is Secretly an Image Segmentation Model". Queries (B,Q,D) enter the last `num_blocks` blocks as
tokens beside the patches (section 3.2); each block is attention among all of them. A query gives a class, or none, and
a mask, the product of its kernel with the patches' map taken to stride 4; classes, masks, scores and loss are those of
`mask_classification`: logits (B,K,H/4,W/4).

While training, every block is preceded by a prediction, which is learnt as the last one is, and restricts what a query
attends to among the patches to those in its mask (Mask2Former's masked attention; Cheng 2022, eq. 2). Each query of
each image is so restricted with a probability that falls from 1 to 0, for one block after another, earlier blocks
first (section 3.3, mask annealing). A network that is done with it, and any that predicts, masks nothing and makes
the last prediction alone. The probability is a function of the share of the training that is over.

Differences: `num_blocks` equal spans with one before them, which gives the authors' steps for 3 blocks that end at
2/3 and for 4 that end at 5/6; masks and the map that they are made with are `channels` wide; the norm before a
prediction is the head's own; validation masks nothing at any time.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from trainables.models.compatibility import FeatureRequest
from trainables.models.heads.mask_classification import QueryPredictor, log_scores
from trainables.models.heads.set_loss import MaskPredictions
from trainables.models.open_vit import OpenBlocks
from trainables.models.resize import resize
from trainables.models.simple_pyramid import scaling
from trainables.recipe.recipe import EomtHead

_STRIDE = 4
_FALL = 0.9  # power of the probability's polynomial, the authors' own


class Eomt(QueryPredictor):
    mask_probability: Tensor  # (num_blocks,), of the blocks that the queries go through

    def __init__(self, cfg: EomtHead, channels: list[int], strides: list[int], num_classes: int) -> None:
        super().__init__()
        cfg.check_classes(num_classes)
        width, doublings = channels[-1], round(math.log2(strides[-1] / _STRIDE))
        self.stride, self.set_weight, self.masked_until = _STRIDE, cfg.set_weight, cfg.masked_until
        self.queries = nn.Parameter(torch.randn(cfg.num_queries, width))
        self.pixels = nn.Sequential(nn.Conv2d(width, cfg.channels, 1), scaling(cfg.channels, doublings))
        self.add_predictor(width, cfg.channels, num_classes)
        # a tensor, so that a compiled step need not be compiled again; no part of what is saved
        self.register_buffer("mask_probability", torch.zeros(cfg.num_blocks), persistent=False)

    @staticmethod
    def reads(cfg: EomtHead) -> FeatureRequest:
        return FeatureRequest(depths=(1.0,), open_blocks=cfg.num_blocks)

    def anneal(self, progress: float) -> None:
        """Set the probabilities of masking for the share of the training that is over, 0 to 1."""
        chances = mask_probabilities(progress, self.masked_until, len(self.mask_probability))
        for block, chance in enumerate(chances):
            self.mask_probability[block].fill_(chance)  # a copy from the host's memory would wait for the device

    def forward(self, features: OpenBlocks) -> tuple[Tensor, list[tuple[MaskPredictions, float]]]:
        before, patches = features.tokens[:, : features.num_prefix], features.tokens[:, features.num_prefix :]
        tokens = torch.cat([before, self.queries.expand(before.shape[0], -1, -1), patches], dim=1)
        by_sets = self.training and self.set_weight > 0
        masked = self.training and self.masked_until > 0
        said = []
        for i, block in enumerate(features.blocks):
            mask = None
            if by_sets or masked:
                said.append(self._predict_from(tokens, features))
            if masked:
                mask = self._attention_mask(said[-1][1], features, self.mask_probability[i])
            tokens = block(tokens, mask)
        said.append(self._predict_from(tokens, features))
        return log_scores(*said[-1]), [(MaskPredictions(said, self.stride), self.set_weight)] if by_sets else []

    def _predict_from(self, tokens: Tensor, features: OpenBlocks) -> tuple[Tensor, Tensor]:
        first = features.num_prefix + len(self.queries)
        return self.predict(
            tokens[:, features.num_prefix : first], self.pixels(features.as_map(self.norm(tokens[:, first:])))
        )

    def _attention_mask(self, masks: Tensor, features: OpenBlocks, chance: Tensor) -> Tensor:
        """Mask logits (B,Q,h,w) -> what is added to attention (B,1,N,N): -inf for the patches outside a query's mask,
        where it is restricted, 0 elsewhere. Queries see each other, so that none is left without anything to see."""
        outside = resize(masks.detach(), features.grid).flatten(2) <= 0  # (B,Q,hw)
        restricted = torch.rand(outside.shape[:2], device=outside.device) < chance  # of [0,1): never for 0
        hidden = torch.zeros(outside.shape, device=outside.device)
        hidden = hidden.masked_fill(outside & restricted[..., None], -torch.inf)
        above, left = features.num_prefix, features.num_prefix + len(self.queries)
        return nn.functional.pad(hidden, (left, 0, above, outside.shape[2]))[:, None]


def mask_probabilities(progress: float, masked_until: float, num_blocks: int) -> list[float]:
    """Of each block after a share `progress` of the training: it falls to 0 within the block's own span, of which
    `num_blocks` follow each other, after one as long in which every block masks, and the last ends at
    `masked_until`."""
    if masked_until == 0:
        return [0.0] * num_blocks
    spans = progress * (num_blocks + 1) / masked_until - 1  # since the first block's began
    return [(1 - min(max(spans - i, 0.0), 1.0)) ** _FALL for i in range(num_blocks)]
