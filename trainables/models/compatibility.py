"""Checks which head can take which backbone, without importing timm, smp or torch.

Whether a backbone is a plain transformer (tokens at one stride through all of its blocks) or a hierarchy is read off
the timm file that defines it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from trainables.models.backbone_names import backbone_files, check_backbone_name
from trainables.models.input_sizes import MULTIPLE_PX

# timm's files whose models keep one stride through all of their blocks.
PLAIN_FILES = frozenset(
    {
        "beit",
        "cait",
        "convit",
        "convmixer",
        "deepseek_vit",
        "deit",
        "eva",
        "gemma4_vit",
        "mlp_mixer",
        "naflexvit",
        "qwen3_vit",
        "tnt",
        "vision_transformer",
        "vision_transformer_hybrid",
        "vision_transformer_relpos",
        "vision_transformer_sam",
        "vitamin",
        "xcit",
    }
)
PLAIN_HEADS = frozenset({"segmenter", "setr_naive", "setr_pup", "dpt", "eomt"})
# timm's files whose blocks take tokens beside the patches, and a mask of their attention.
OPEN_FILES = frozenset({"deit", "eva", "vision_transformer"})
LOW_RANK_FILES = OPEN_FILES | {"beit"}
_PATCH = re.compile(r"_patch(\d+)(?=_|$)")
_HEADS_FOR_ALL = "upernet, knet, segformer or linear"
_OPEN_EXAMPLES = "vit_small_patch16_dinov3 or vit_small_patch16_224"
_PLAIN_EXAMPLES = "vit_small_patch16_224, deit3_base_patch16_384 or beitv2_base_patch16_224"


@dataclass(frozen=True)
class FeatureRequest:
    """The features that a head takes from a backbone.

    Either levels of the pyramid (0 is stride 4, 3 is stride 32) or, where `depths` are given, plain features at the
    transformer's own stride after these shares of its blocks (1.0 after the last). A head that can read both gives
    `plain_depths`, which are its depths over a plain transformer. Of a transformer's `open_blocks` last blocks the head
    gets what goes into them, and the blocks themselves (`trainables.models.open_vit`).
    """

    levels: tuple[int, ...] = (0, 1, 2, 3)
    depths: tuple[float, ...] = ()
    plain_depths: tuple[float, ...] = ()
    open_blocks: int = 0

    def over(self, backbone_name: str) -> FeatureRequest:
        """What is read of this backbone."""
        plain = self.plain_depths and is_plain(backbone_name)
        return FeatureRequest(depths=self.plain_depths) if plain else self


PYRAMID = FeatureRequest()


def is_plain(backbone_name: str) -> bool:
    """True for a transformer of one stride (ViT, DeiT, BEiT, EVA), False for a hierarchy (ConvNeXt, Swin, MiT)."""
    check_backbone_name(backbone_name)
    return backbone_files()[backbone_name.partition(".")[0]] in PLAIN_FILES


def patch_px(backbone_name: str) -> int | None:
    """The side of a plain transformer's patches by its name; None of a hierarchy, and of a name without one."""
    found = _PATCH.search(backbone_name.partition(".")[0])
    return int(found.group(1)) if found and is_plain(backbone_name) else None


def check_patches(backbone_name: str, crops_px: Sequence[int]) -> None:
    """Raise ValueError where whole patches fill none of these crops, so that every training image would be padded."""
    patch = patch_px(backbone_name)
    if patch is None or any(crop % patch == 0 for crop in crops_px):
        return
    unit = math.lcm(patch, MULTIPLE_PX)
    near = sorted({max(1, crop // unit + up) * unit for crop in crops_px for up in (0, 1)})
    raise ValueError(
        f"patches must fill some crop of the space, got {backbone_name!r} with patches of {patch} px and crop_px "
        f"{', '.join(map(str, crops_px))}; use a crop_px of {' or '.join(map(str, near))}"
    )


def check_low_rank(backbone_name: str) -> None:
    """Raise ValueError where the backbone has no attention over all patches whose linear layers LoRA could update."""
    if backbone_files()[backbone_name.partition(".")[0]] not in LOW_RANK_FILES:
        raise ValueError(
            f"lora_rank must be 0 for {backbone_name!r}, which is no plain vision transformer, got more; use 0, or a "
            f"backbone such as {_PLAIN_EXAMPLES}"
        )


def check_pair(backbone_name: str, head_name: str) -> None:
    """Raise ValueError where `head_name` needs features that `backbone_name` lacks, or the backbone is unknown."""
    if head_name in PLAIN_HEADS and not is_plain(backbone_name):
        raise ValueError(
            f"head {head_name!r} needs a plain vision transformer, whose blocks share one stride, got "
            f"{backbone_name!r}; use {_HEADS_FOR_ALL}, or a backbone such as {_PLAIN_EXAMPLES}"
        )
    if head_name == "eomt" and backbone_files()[backbone_name.partition(".")[0]] not in OPEN_FILES:
        raise ValueError(
            f"head 'eomt' needs a transformer whose blocks its queries can go through, got {backbone_name!r}; use "
            f"mask_classification, or a backbone such as {_OPEN_EXAMPLES}"
        )
