"""The heads by name. A head is built from (its config, channels and strides of the pyramid, number of classes).

Its forward takes the features and gives logits (B,K,h,w) at `.stride`, and a list of auxiliary (logits, loss weight)
pairs, which is empty outside training. A new head is one file, one config in `trainables.recipe` and one line here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

from trainables.models.heads import smp_decoders
from trainables.models.heads.segformer import SegFormer
from trainables.models.heads.smp_decoders import SmpDecoder
from trainables.models.heads.upernet import UPerNet
from trainables.recipe import Head

HEADS: dict[str, Callable[[Any, list[int], list[int], int], nn.Module]] = {
    "upernet": UPerNet,
    "segformer": SegFormer,
    "unet": SmpDecoder,
    "unetplusplus": SmpDecoder,
    "fpn": SmpDecoder,
    "pan": SmpDecoder,
    "deeplabv3plus": SmpDecoder,
    "manet": SmpDecoder,
    "linknet": SmpDecoder,
    "pspnet": SmpDecoder,
}


def build_head(cfg: Head, channels: list[int], strides: list[int], num_classes: int) -> nn.Module:
    """The head that `cfg` names; ValueError where it cannot work on these strides."""
    return HEADS[cfg.name](cfg, channels, strides, num_classes)


def levels_read(cfg: Head) -> Sequence[int]:
    """Which of the pyramid's levels (0 is stride 4) the head reads."""
    return smp_decoders.levels(cfg.name)
