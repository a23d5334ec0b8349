"""The recipe: the typed, frozen, hashable and serialisable description of one trial.

This module imports neither torch nor timm, so that a space can be checked in a fraction of a second.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from typing import Annotated, Literal, Self

from pydantic import Field, ValidationInfo, model_validator

from trainables.recipe.augmentation import Augmentation as Augmentation
from trainables.recipe.backbone import Backbone as Backbone
from trainables.recipe.config import Config as Config
from trainables.recipe.config import Probability

MAX_SIDE_PX = 2**14
Channels = Annotated[int, Field(ge=8, le=4096)]
ATTENTION_HEADS = 8  # of the heads that attend with a width of their own
SLOW_HEADS = frozenset({"mask_classification", "eomt"})  # they start slowly, since the matching has to settle first


class UPerNetHead(Config):
    name: Literal["upernet"] = "upernet"
    channels: Channels = 512
    dropout: Probability = 0.1
    aux_weight: Annotated[float, Field(ge=0.0)] = 0.4  # 0 leaves the auxiliary FCN head out
    aux_channels: Channels = 256


class LinearHead(Config):
    """One linear map of every pixel's features; with a frozen backbone, the cheapest rung."""

    name: Literal["linear"] = "linear"
    dropout: Probability = 0.1


class SegFormerHead(Config):
    name: Literal["segformer"] = "segformer"
    channels: Channels = 256
    dropout: Probability = 0.1


class KNetHead(Config):
    """K-Net's stages over a UPerNet, which makes the first kernels and the map that all stages read."""

    name: Literal["knet"] = "knet"
    channels: Channels = 512
    num_stages: Annotated[int, Field(ge=1, le=16)] = 3
    dropout: Probability = 0.1
    aux_weight: Annotated[float, Field(ge=0.0)] = 0.4  # 0 leaves the auxiliary FCN head out
    aux_channels: Channels = 256

    @model_validator(mode="after")
    def _channels_divide(self) -> KNetHead:
        unit = ATTENTION_HEADS if self.channels <= 256 else 256  # 256: the width of the kernel update
        if self.channels % unit:
            low = self.channels // unit * unit
            raise ValueError(
                f"channels must be divisible by 8, above 256 by 256, got {self.channels}; use {low} or {low + unit}"
            )
        return self


class SegmenterHead(Config):
    """Segmenter's mask transformer, as wide as the plain transformer that it reads."""

    name: Literal["segmenter"] = "segmenter"
    num_layers: Annotated[int, Field(ge=1, le=32)] = 2
    dropout: Probability = 0.1


class SetrHead(Config):
    """SETR's convolutions over a plain transformer: one at its stride (naive), or four with upsampling (pup)."""

    name: Literal["setr_naive", "setr_pup"]
    channels: Channels = 256
    aux_weight: Annotated[float, Field(ge=0.0)] = 0.4  # of each of three; 0 leaves them out


class DptHead(Config):
    """DPT's reassembly of a plain transformer's features, and its convolutional fusion."""

    name: Literal["dpt"] = "dpt"
    channels: Channels = 256
    dropout: Probability = 0.1


class Queries(Config):
    """Queries give a class and a mask each (MaskFormer), matched to the labels.

    The loss is `loss`, taken of the scores per pixel, and `set_weight` times the set loss after every layer.
    """

    channels: Channels = 256
    num_queries: Annotated[int, Field(ge=2, le=1024)] = 100  # as many as there are classes, at least
    set_weight: Annotated[float, Field(ge=0.0)] = 1.0  # of the set loss beside `loss`; 0 leaves it out

    @model_validator(mode="after")
    def _every_class_has_a_query(self, info: ValidationInfo) -> Self:
        """Check where the data is known: context={"num_classes": K}."""
        if info.context is not None and "num_classes" in info.context:
            self.check_classes(info.context["num_classes"])
        return self

    def check_classes(self, num_classes: int) -> None:
        """ValueError where an image may show more classes than there are queries to be matched with."""
        if self.num_queries < num_classes:
            raise ValueError(
                f"num_queries must be at least the number of classes, {num_classes}, got {self.num_queries}; use "
                f"{num_classes} or more"
            )


class MaskHead(Queries):
    """Queries read any pyramid by cross-attention, in a decoder of their own."""

    name: Literal["mask_classification"] = "mask_classification"
    num_layers: Annotated[int, Field(ge=1, le=16)] = 6  # of the decoder

    @model_validator(mode="after")
    def _channels_divide(self) -> MaskHead:
        if self.channels % ATTENTION_HEADS:
            low = self.channels // ATTENTION_HEADS * ATTENTION_HEADS
            raise ValueError(
                f"channels must be divisible by {ATTENTION_HEADS}, got {self.channels}; use {low} or "
                f"{low + ATTENTION_HEADS}"
            )
        return self


class EomtHead(Queries):
    """EoMT: queries go through the last blocks of a plain transformer together with its patches.

    While training, a query sees only the patches in its mask, with a probability that falls to 0 block after block.
    """

    name: Literal["eomt"] = "eomt"
    num_blocks: Annotated[int, Field(ge=1, le=64)] = 4  # the last ones, which the queries go through
    masked_until: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.75  # share of the training; 0 masks no attention


class SmpHead(Config):
    """A decoder of segmentation-models-pytorch over the same pyramid, with smp's own defaults."""

    name: Literal["unet", "unetplusplus", "fpn", "pan", "deeplabv3plus", "manet", "linknet", "pspnet"]


Head = Annotated[
    UPerNetHead
    | SegFormerHead
    | LinearHead
    | KNetHead
    | SegmenterHead
    | SetrHead
    | DptHead
    | MaskHead
    | EomtHead
    | SmpHead,
    Field(discriminator="name"),
]


class Loss(Config):
    name: Literal["cross_entropy", "focal", "dice", "lovasz", "ce_dice", "ce_lovasz"] = "cross_entropy"
    class_weights: Literal["none", "inverse_sqrt"] = "none"  # from the train split's pixel counts

    @model_validator(mode="after")
    def _has_a_weighted_term(self) -> Loss:
        if self.class_weights != "none" and self.name in ("dice", "lovasz"):
            raise ValueError(
                f"class_weights weigh cross-entropy and focal terms, got {self.class_weights} with {self.name}, "
                f"which has neither; use none, or ce_{self.name}"
            )
        return self


class Optimizer(Config):
    name: Literal["adamw", "sgd", "nadamw", "lamb"] = "adamw"
    lr: Annotated[float, Field(gt=0.0)] = 1e-4
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.05
    layer_decay: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    warmup_epochs: Annotated[float, Field(ge=0.0)] = 1.0
    min_lr_factor: Annotated[float, Field(ge=0.0, le=1.0)] = 0.01  # the cosine ends at lr * this
    clip_norm: Annotated[float, Field(gt=0.0)] | None = 1.0


Amp = Literal["auto", "bf16", "fp16", "tf32", "off"]


class Train(Config):
    num_epochs: Annotated[int, Field(ge=1)] = 60
    batch_size: Annotated[int, Field(ge=1)] = 8
    accumulate: Annotated[int, Field(ge=1)] = 1  # a batch is split in this many micro-batches
    ema_decay: Annotated[float, Field(ge=0.0, lt=1.0)] | None = 0.999
    amp: Amp = "auto"  # what each means: trainables/device.py
    num_workers: Annotated[int, Field(ge=0)] = 4
    cache_gb: Annotated[float, Field(gt=0.0)] = 4.0  # memory (GiB) for a frozen backbone's features of all views
    compile: bool = False  # torch.compile the training step: quicker, the same numbers but for rounding
    grad_checkpointing: bool = False  # the backbone's activations are computed again in the backward pass: less memory

    @model_validator(mode="after")
    def _divides(self) -> Train:
        if self.batch_size % self.accumulate:
            raise ValueError(
                f"accumulate must divide batch_size, got {self.accumulate} and {self.batch_size}; "
                f"use a divisor of {self.batch_size}"
            )
        return self


class Recipe(Config):
    """The whole description of a trial. Equal recipes give equal numbers on the same machine."""

    backbone: Backbone
    head: Head
    augmentation: Augmentation = Augmentation()
    loss: Loss = Loss()
    optimizer: Optimizer = Optimizer()
    train: Train = Train()
    seed: int = 0

    @model_validator(mode="after")
    def _frozen_layers_do_not_learn(self) -> Recipe:
        if self.backbone.frozen and self.optimizer.layer_decay != 1.0:
            raise ValueError(
                "optimizer.layer_decay must be 1 with a frozen backbone, whose layers do not learn, got "
                f"{self.optimizer.layer_decay}; use 1, or frozen: false"
            )
        if self.backbone.frozen and self.train.grad_checkpointing:
            raise ValueError(
                "train.grad_checkpointing must be false with a frozen backbone, which keeps no activations, got true; "
                "use false, or frozen: false"
            )
        return self

    @model_validator(mode="after")
    def _masks_end_before_the_last_epoch(self) -> Recipe:
        """The network that is scored and shipped masks no attention: it has to be trained so at last."""
        most = 1 - 1 / self.train.num_epochs
        if isinstance(self.head, EomtHead) and self.head.masked_until > most:
            raise ValueError(
                f"head.masked_until must leave the last of {self.train.num_epochs} epochs without masks, got "
                f"{self.head.masked_until}; use {math.floor(100 * most) / 100:g} or less"
            )
        return self

    @property
    def hash(self) -> str:
        """12 hex digits that name this recipe in file names and tables."""
        canonical = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:12]

    @property
    def family(self) -> str:
        """The backbone family: 'convnext' for 'convnext_tiny.fb_in22k', 'mit' for 'mit_b0'."""
        return backbone_family(self.backbone.name)


def bracket_of(backbone: str, head: str) -> str:
    """The bracket that ASHA compares a trial in: its backbone's family, with heads that start slowly apart."""
    family = backbone_family(backbone)
    return f"{family}/masks" if head in SLOW_HEADS else family


def backbone_family(name: str) -> str:
    """'convnext_tiny.fb_in22k' -> 'convnext', 'swinv2_tiny' -> 'swinv2', 'resnet18' -> 'resnet'.

    timm's 'test_' models belong to the family that they test.
    """
    token = name.split(".", 1)[0].removeprefix("test_").split("_", 1)[0]
    return re.sub(r"(?<![v\d])\d+[a-z]?$", "", token)
