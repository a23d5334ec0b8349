"""Backbone and head as one network: images (B,3,H,W), normalised with `.mean` and `.std`, to logits.

Images may have any size from 1 px. Logits are (B,K,ceil(H/s),ceil(W/s)) at the head's own stride s; the caller takes
them to full size (`resize.upsample`). Sizes that 32 does not divide are padded with zeros, the training set's mean
colour, on the right and at the bottom, and the logits cropped again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from trainables.models.backbones import PyramidBackbone, build_backbone
from trainables.models.heads import Annealed, OwnLoss, build_head, features_read
from trainables.models.input_sizes import MULTIPLE_PX
from trainables.models.lora import adapt, plain_name
from trainables.models.pretrained import LoadReport
from trainables.recipe.recipe import Backbone, Recipe


@dataclass(frozen=True)
class Outputs:
    """logits (B,K,h,w) and, while training, the auxiliary logits (B,K,h',w'), or what brings a loss of its own, with
    their loss weights."""

    logits: Tensor
    aux: list[tuple[Tensor | OwnLoss, float]]


class Segmentor(nn.Module):
    """image (B,3,H,W) -> logits (B,K,ceil(H/stride),ceil(W/stride))."""

    def __init__(self, backbone: PyramidBackbone, head: Any, num_classes: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.num_classes = num_classes
        self.stride: int = head.stride
        self.mean = backbone.mean
        self.std = backbone.std

    @property
    def load_report(self) -> LoadReport:
        return self.backbone.load_report

    def forward(self, image: Tensor) -> Tensor:
        return self.forward_all(image).logits

    def forward_all(self, image: Tensor | tuple[Tensor, ...]) -> Outputs:
        """Of images, or of what a frozen backbone's body says of images with sides that are multiples of 32 px."""
        if isinstance(image, tuple):
            return Outputs(*self.head(self.backbone.finish(image)))
        height, width = image.shape[2:]
        self.backbone.check_size(height, width)
        below, right = -height % MULTIPLE_PX, -width % MULTIPLE_PX
        if below or right:
            image = functional.pad(image, (0, right, 0, below))
        padded = image.shape[2:]
        logits, aux = self.head(self.backbone(image))

        def crop(x: Tensor) -> Tensor:
            stride = padded[0] // x.shape[2]
            return x[:, :, : -(-height // stride), : -(-width // stride)]

        return Outputs(crop(logits), [(crop(x) if isinstance(x, Tensor) else x, weight) for x, weight in aux])

    def anneal(self, progress: float) -> None:
        """Tell the head, where it changes over the training, which share of that is over, 0 to 1."""
        if isinstance(self.head, Annealed):
            self.head.anneal(progress)

    def group_matcher(self, coarse: bool = False) -> Callable[[str], int]:  # noqa: ARG002  timm passes it
        """Depth of a parameter by name, as timm's layer-wise decay asks for it: the stem 0, the head last."""
        layer_of = self.backbone.layer_of
        last = max(layer_of.values()) + 1
        return lambda name: layer_of.get(plain_name(name).removeprefix("backbone."), last)

    def no_weight_decay(self) -> set[str]:
        """Names that timm's models exempt from weight decay (position tables and the like)."""
        return {f"backbone.{name}" for name in self.backbone.no_weight_decay}


def adapt_as(model: Segmentor, cfg: Backbone) -> None:
    """Make `model` what learns in a trial: with low-rank updates of its backbone, where `cfg` asks for them. Whatever
    comes after the trial gets the ordinary network (`merged_weights`)."""
    if cfg.lora_rank:
        adapt(model.backbone.body, cfg.name, cfg.lora_rank, cfg.lora_alpha or cfg.lora_rank)


def build_segmentor(
    recipe: Recipe, num_classes: int, *, pretrained: bool | None = None, in_chans: int = 3
) -> Segmentor:
    """The network of `recipe` for `num_classes` classes, on torch's default device, in training mode.

    `pretrained` overrides the recipe's: False where other weights are loaded right after. Random values come from
    torch's global generator, which the caller seeds. On the meta device nothing is loaded. Raises ValueError as
    `build_backbone` and `build_head` do.
    """
    if num_classes < 2:
        raise ValueError(f"num_classes must be at least 2, got {num_classes}; add a class or a background")
    cfg = recipe.backbone
    if pretrained is not None:
        cfg = cfg.model_copy(update={"pretrained": pretrained})
    backbone = build_backbone(cfg, features_read(recipe.head), in_chans=in_chans)
    head = build_head(recipe.head, backbone.channels, backbone.strides, num_classes)
    return Segmentor(backbone, head, num_classes)
