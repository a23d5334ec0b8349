"""Mask classification over any pyramid (Cheng 2021, MaskFormer; Cheng 2022, Mask2Former).

Four features (B,C_i,H/s_i,W/s_i) give scores (B,K,H/4,W/4). A feature pyramid (MaskFormer, section 3.3) makes a map
per level; `num_queries` learnt queries read the maps at strides 32, 16 and 8 in turn, a level per layer (Mask2Former,
section 3.2.2), by cross-attention, then attend to each other and go through a feed-forward network (section 3.2.3). A
query gives a class, or none, and a mask: the product of its kernel with the map at stride 4 (MaskFormer, section 3.3).
Every layer's predictions, and those of the queries before the first, are learnt by the set loss (`set_loss`).

A class's score at a pixel is sum_q p_q(k) sigmoid(m_q) (MaskFormer, section 3.4). It is no logit: what a softmax would
make of scores in [0, 1] is nearly flat. So the logits are the logs of the scores, normalised over classes: their
softmax is the normalised score, wherever logits are resized, stored, averaged or voted on.

Differences: attention is not masked; no position encodings, since a segment is all that an image shows of a class,
wherever it lies, and a mirrored image then gives mirrored scores; batch norm in place of group norm, as in the other
heads; scores are resized to the image as logs, not masks before their product with the classes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from trainables.models.compatibility import PYRAMID, FeatureRequest
from trainables.models.heads.classifier import as_scored, full_precision, scoring
from trainables.models.heads.conv_norm import conv_norm_relu, init_head
from trainables.models.heads.set_loss import MaskPredictions
from trainables.models.resize import resize
from trainables.recipe.recipe import ATTENTION_HEADS, MaskHead

_EXPANSION = 4  # of the feed-forward network
_COARSEST_FIRST = (3, 2, 1)  # levels that the queries read in turn
_TINY = torch.finfo(torch.float32).tiny


class QueryPredictor(nn.Module):
    """What queries say: a class each, or none, and a mask."""

    def add_predictor(self, width: int, mask_width: int, num_classes: int) -> None:
        """`width` of the queries, `mask_width` of the map that masks are made with."""
        self.norm = nn.LayerNorm(width)
        self.classifier = nn.Linear(width, num_classes + 1)
        self.mask_kernel = nn.Sequential(
            nn.Linear(width, width),
            nn.ReLU(inplace=True),
            nn.Linear(width, width),
            nn.ReLU(inplace=True),
            nn.Linear(width, mask_width),
        )

    def predict(self, queries: Tensor, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Queries (B,Q,D), map (B,C,h,w) -> class logits (B,Q,K+1), mask logits (B,Q,h,w)."""
        with scoring(self, pixels.device.type):
            queries = self.norm(as_scored(self, queries))
            masks = torch.einsum("bqd,bdhw->bqhw", self.mask_kernel(queries), as_scored(self, pixels))
            return self.classifier(queries), masks


class MaskClassification(QueryPredictor):
    def __init__(self, cfg: MaskHead, channels: list[int], strides: list[int], num_classes: int) -> None:
        super().__init__()
        cfg.check_classes(num_classes)
        width = cfg.channels
        self.stride, self.set_weight = strides[0], cfg.set_weight
        self.pyramid = FeaturePyramid(channels, width)
        self.pixels = nn.Conv2d(width, width, 1)
        self.queries = nn.Parameter(torch.randn(cfg.num_queries, width))
        self.layers = nn.ModuleList(DecoderLayer(width) for _ in range(cfg.num_layers))
        self.add_predictor(width, width, num_classes)

    @staticmethod
    def reads(cfg: MaskHead) -> FeatureRequest:  # noqa: ARG004
        return PYRAMID

    def forward(self, features: list[Tensor]) -> tuple[Tensor, list[tuple[MaskPredictions, float]]]:
        maps = self.pyramid(features)
        pixels, queries = self.pixels(maps[0]), self.queries.expand(maps[0].shape[0], -1, -1)
        by_sets = self.training and self.set_weight > 0
        said = []
        for i, layer in enumerate(self.layers):
            if by_sets:
                said.append(self.predict(queries, pixels))
            queries = layer(queries, maps[_COARSEST_FIRST[i % len(_COARSEST_FIRST)]])
        said.append(self.predict(queries, pixels))
        return log_scores(*said[-1]), [(MaskPredictions(said, self.stride), self.set_weight)] if by_sets else []


class FeaturePyramid(nn.Module):
    """Features, finest first -> maps (B,D,H/s_i,W/s_i), each with what the coarser ones say (MaskFormer, 3.3)."""

    def __init__(self, channels: list[int], width: int) -> None:
        super().__init__()
        self.laterals = nn.ModuleList(conv_norm_relu(c, width, 1) for c in channels)
        self.outputs = nn.ModuleList(conv_norm_relu(width, width, 3) for _ in channels)
        init_head(self)

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        maps: list[Tensor] = []
        for feature, lateral, output in zip(features[::-1], self.laterals[::-1], self.outputs[::-1], strict=True):
            level = lateral(feature)
            maps.append(output(level + resize(maps[-1], level.shape[2:]) if maps else level))
        return maps[::-1]


class DecoderLayer(nn.Module):
    """Queries (B,Q,D), one level's map (B,D,h,w) -> queries (B,Q,D): cross-attention first (Mask2Former, 3.2.3)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.cross, self.among = Attention(width), Attention(width)
        self.feed_forward = nn.Sequential(
            nn.Linear(width, _EXPANSION * width), nn.ReLU(inplace=True), nn.Linear(_EXPANSION * width, width)
        )
        self.cross_norm, self.among_norm, self.feed_forward_norm = (nn.LayerNorm(width) for _ in range(3))
        for parameter in self.parameters():
            if parameter.ndim > 1:
                nn.init.xavier_uniform_(parameter)

    def forward(self, queries: Tensor, level: Tensor) -> Tensor:
        places = level.flatten(2).transpose(1, 2)  # (B,hw,D)
        queries = self.cross_norm(queries + self.cross(queries, places))
        queries = self.among_norm(queries + self.among(queries, queries))
        refined: Tensor = self.feed_forward_norm(queries + self.feed_forward(queries))
        return refined


class Attention(nn.Module):
    """Queries (B,Q,D), what they read (B,P,D) -> (B,Q,D). torch's own module cannot be exported for any P."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))

    def forward(self, queries: Tensor, read: Tensor) -> Tensor:
        parts = (self.query(queries), self.key(read), self.value(read))
        split = [x.reshape(x.shape[0], x.shape[1], ATTENTION_HEADS, -1).transpose(1, 2) for x in parts]
        attended: Tensor = self.out(functional.scaled_dot_product_attention(*split).transpose(1, 2).flatten(2))
        return attended


def log_scores(classes: Tensor, masks: Tensor) -> Tensor:
    """Class logits (B,Q,K+1), mask logits (B,Q,h,w) -> log of the normalised scores (B,K,h,w), float32.

    Masks are taken relative to a pixel's strongest one, so that a pixel that all masks leave out keeps its order.
    """
    with full_precision(masks.device.type):
        inside = functional.logsigmoid(masks.float())
        inside = (inside - inside.amax(1, keepdim=True).detach()).exp()
        scores = torch.einsum("bqk,bqhw->bkhw", classes.float().softmax(2)[:, :, :-1], inside)
        return scores.clamp_min(_TINY).log().log_softmax(1)
