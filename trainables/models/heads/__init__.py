"""The heads by name. A head is built from (its config, channels and strides of the features, number of classes).

Its forward takes the features and gives logits (B,K,h,w) at `.stride`, and a list of auxiliary (logits, loss weight)
pairs, which is empty outside training. In place of auxiliary logits, which are learnt by the recipe's loss, may stand
what brings a loss of its own, an `OwnLoss`. `reads(cfg)` says which features it takes: levels of the pyramid, or plain
ones after some depths. A new head is one file, one config in `trainables.recipe` and one line here (and its name in
`trainables.models.compatibility.PLAIN_HEADS`, where it takes plain features).
"""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn

from trainables.models.compatibility import FeatureRequest
from trainables.models.heads.dpt import Dpt
from trainables.models.heads.eomt import Eomt
from trainables.models.heads.knet import KNet
from trainables.models.heads.linear import Linear
from trainables.models.heads.mask_classification import MaskClassification
from trainables.models.heads.segformer import SegFormer
from trainables.models.heads.segmenter import Segmenter
from trainables.models.heads.setr import Setr
from trainables.models.heads.smp_decoders import SmpDecoder
from trainables.models.heads.upernet import UPerNet
from trainables.recipe.recipe import Head


class HeadBuilder(Protocol):
    """A head's class."""

    def __call__(self, cfg: Any, channels: list[int], strides: list[int], num_classes: int, /) -> nn.Module: ...

    def reads(self, cfg: Any, /) -> FeatureRequest: ...


class OwnLoss(Protocol):
    """What a head says while training, with the loss that it is learnt by."""

    def of_images(self, label: Tensor, ignore_index: int, /) -> Tensor:
        """The loss of each image (B,), float32, given labels (B,H,W) at the images' size; 0 or more, and finite, where
        all of an image is ignored: it then has no weight."""
        ...


@runtime_checkable
class Annealed(Protocol):
    """A head that changes over the training."""

    def anneal(self, progress: float, /) -> None:
        """Called before each update with the share of the training that is over, 0 to 1: all that it may depend on, so
        that a resumed trial goes on as it was."""
        ...


HEADS: dict[str, HeadBuilder] = {
    "linear": Linear,
    "upernet": UPerNet,
    "knet": KNet,
    "segformer": SegFormer,
    "segmenter": Segmenter,
    "setr_naive": Setr,
    "setr_pup": Setr,
    "dpt": Dpt,
    "mask_classification": MaskClassification,
    "eomt": Eomt,
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


def features_read(cfg: Head) -> FeatureRequest:
    """The features that the head takes from a backbone."""
    return HEADS[cfg.name].reads(cfg)
