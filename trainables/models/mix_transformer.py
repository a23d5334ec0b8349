"""smp's Mix Transformers MiT-B0 to B5 (Xie 2021), the backbones of SegFormer, which timm lacks.

They give four features at strides 4, 8, 16 and 32, each after its stage's own layer norm. Pretrained weights are smp's
conversion of the authors' ImageNet-1k ones (NVIDIA's licence: non-commercial use).
"""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import hf_hub_download
from segmentation_models_pytorch.encoders.mix_transformer import mix_transformer_encoders
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import checkpoint

from trainables.models.compatibility import FeatureRequest
from trainables.models.feature_extractor import NOTHING_LOADED, FeatureExtractor, check_drop_path, statistics
from trainables.models.pretrained import LoadReport, load_file, unavailable
from trainables.recipe.recipe import Backbone

_STAGES = (1, 2, 3, 4)
_WEIGHTS = "imagenet"
_STAGE_NUMBER = re.compile(r"\d")  # patch_embed1, block1, norm1


class MixTransformer(nn.Module):
    """image (B,C,H,W), multiples of 32 px -> four features (B,C_i,H/s_i,W/s_i)."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self._checkpointing = False

    def forward(self, image: Tensor) -> list[Tensor]:
        x, features = image, []
        for stage in _STAGES:
            x = self._part("patch_embed", stage)(x)
            for block in self._part("block", stage):
                recompute = self._checkpointing and torch.is_grad_enabled()
                x = checkpoint(block, x, use_reentrant=False) if recompute else block(x)
            x = self._part("norm", stage)(x).contiguous()
            features.append(x)
        return features

    def _part(self, name: str, stage: int) -> Any:
        return getattr(self.model, f"{name}{stage}")

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        self._checkpointing = enable

    def layer_of(self) -> dict[str, int]:
        """The stem is 0; blocks count from 1, each stage's patch embedding with its first, its norm with its last."""
        depth: dict[str, int] = {}
        num_blocks = 0
        for stage in _STAGES:
            first = num_blocks + 1
            num_blocks += len(self._part("block", stage))
            starts = {f"patch_embed{stage}": 0 if stage == 1 else first, f"norm{stage}": num_blocks}
            starts |= {f"block{stage}.{i}": first + i for i in range(len(self._part("block", stage)))}
            for name, _ in self.model.named_parameters():
                depth |= {f"model.{name}": layer for start, layer in starts.items() if name.startswith(f"{start}.")}
        return depth


class _LinspaceOnCpu(TorchFunctionMode):
    """smp reads its drop-path rates off a linspace, which on the meta device holds no values."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        here = {"device": "cpu"} if func is torch.linspace else {}
        return func(*args, **{**(kwargs or {}), **here})


def extract(cfg: Backbone, reads: FeatureRequest, in_chans: int) -> FeatureExtractor:
    """Raises ValueError for weights that are not available or do not fit, or where plain features are wanted."""
    if reads.depths:
        raise ValueError(f"backbone {cfg.name!r} has no features at one stride; use a head that reads a pyramid")
    known = mix_transformer_encoders[cfg.name.partition(".")[0]]
    params = {**copy.deepcopy(known["params"]), "drop_path_rate": cfg.drop_path, "in_chans": in_chans}
    with _LinspaceOnCpu():
        model = known["encoder"](**params)
    body = MixTransformer(model)
    check_drop_path(body, cfg)
    return FeatureExtractor(
        body=body,
        channels=list(params["embed_dims"]),
        strides=[4, 8, 16, 32],
        mean=statistics(IMAGENET_DEFAULT_MEAN, in_chans),
        std=statistics(IMAGENET_DEFAULT_STD, in_chans),
        residual=False,
        layer_of=body.layer_of(),
        stage_of={name: int(_STAGE_NUMBER.findall(name)[0]) for name, _ in body.named_parameters()},
        load_report=_load(body, known, cfg),
    )


def _load(body: MixTransformer, known: dict[str, Any], cfg: Backbone) -> LoadReport:
    if not cfg.pretrained or next(body.parameters()).device.type == "meta":
        return NOTHING_LOADED
    if cfg.weights_file is not None:
        return load_file(body, body.model, Path(cfg.weights_file), cfg.name)
    place = known["pretrained_settings"][_WEIGHTS]
    try:
        path = hf_hub_download(place["repo_id"], "model.safetensors", revision=place["revision"])
    except Exception as error:  # the hub, the network and the disk each raise their own kinds
        raise unavailable(cfg.name, f"the Hugging Face hub ({place['repo_id']})", error) from error
    return load_file(body, body.model, Path(path), cfg.name, source=f"smp's weights of {cfg.name}")
