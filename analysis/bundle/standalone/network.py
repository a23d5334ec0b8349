"""The networks of a bundle, rebuilt from timm's backbones without segsearch; load.py beside this file uses them.

Covered are backbones of timm, hierarchical ones (features at strides 4, 8, 16 and 32) and plain transformers that take
images of any size (ViT, DeiT, DINO, EVA), with the heads SegFormer, UPerNet, K-Net and linear. Names of modules are
those of the weights.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import load_file
from timm.layers.norm import LayerNorm2d
from torch import Tensor, nn
from torch.nn import functional

STRIDES = (4, 8, 16, 32)
ANY_SIZE = {"strict_img_size": False, "always_partition": True}  # of Swin: images of any size, windows everywhere
ANY_GRID = "dynamic_img_size"  # of plain transformers: position embeddings resized to the image
DEPTHS = (1 / 3, 1 / 2, 2 / 3, 1.0)  # shares of a plain transformer's blocks, after which its features are read
AS_IT_IS = {"linear": (1.0,)}  # the same, of heads that read them without a pyramid


def unreadable(manifest: dict[str, Any]) -> list[str]:
    """What of a bundle.json load.py cannot do, in words; empty where it can do all."""
    found = [] if manifest["vote"] in ("soft", "hard", "geometric") else [f"a {manifest['vote']} vote"]
    if any("-t" in view for member in manifest["members"] for view in member.get("views", ())):
        found.append("a view in tiles")
    for member in manifest["members"]:
        name, head = member["recipe"]["backbone"]["name"], member["recipe"]["head"]["name"]
        if head not in HEADS or not (set(STRIDES) <= set(_levels(name)) or _is_plain(name)):
            found.append(f"{name} with the head {head}")
    return list(dict.fromkeys(found))


class Network(nn.Module):
    """Normalised images (B,3,H,W), sides multiples of 32 px -> logits (B,K,H/s,W/s) at the head's stride s."""

    def __init__(self, recipe: dict[str, Any], num_classes: int, weights: Path) -> None:
        super().__init__()
        name, head, state = recipe["backbone"]["name"], recipe["head"]["name"], load_file(weights)
        plain = _is_plain(name)
        body: Any = PlainTransformer(name, AS_IT_IS.get(head, DEPTHS)) if plain else _hierarchy(name)
        channels = body.channels if plain else body.feature_info.channels()
        norms = (
            LayerNorm2d(width) if f"backbone.norms.{level}.weight" in state else nn.Identity()
            for level, width in enumerate(channels)
        )
        self.backbone = nn.ModuleDict({"body": body, "norms": nn.ModuleList(norms)})
        pyramid = plain and head not in AS_IT_IS
        self.backbone["pyramid"] = SimplePyramid(channels[0], body.stride) if pyramid else nn.Identity()
        self.head = HEADS[head](recipe["head"], channels, num_classes)
        self.channels_last = getattr(body, "output_fmt", "NCHW") == "NHWC"
        self.load_state_dict({key: value for key, value in state.items() if ".aux_head." not in key})

    def forward(self, image: Tensor) -> Tensor:
        levels = self.backbone["body"](image)
        if self.channels_last:
            levels = [level.permute(0, 3, 1, 2) for level in levels]
        norms: Any = self.backbone["norms"]
        levels = [norm(level) for norm, level in zip(norms, levels, strict=True)]
        logits: Tensor = self.head(self.backbone["pyramid"](levels))
        return logits


class PlainTransformer(nn.Module):
    """Images -> a feature (B,D,H/s,W/s) for each of `depths`, at the stride s of 8, 16 or 32 px nearest to a patch."""

    def __init__(self, name: str, depths: Sequence[float]) -> None:
        super().__init__()
        info = _whole(name).feature_info
        self.blocks = [max(0, round(depth * len(info)) - 1) for depth in depths]
        self.channels, self.patch_px = [info[block]["num_chs"] for block in self.blocks], info[0]["reduction"]
        self.stride = min(STRIDES[1:], key=lambda stride: max(stride / self.patch_px, self.patch_px / stride))
        args: dict[str, Any] = {"out_indices": sorted(set(self.blocks)), ANY_GRID: True}
        self.model: Any = timm.create_model(name, features_only=True, **args).model

    def forward(self, image: Tensor) -> list[Tensor]:
        rows, columns = (side // self.stride for side in image.shape[2:])
        whole = functional.pad(image, [edge for side in image.shape[:1:-1] for edge in (0, -side % self.patch_px)])
        indices = sorted(set(self.blocks))
        found = self.model.forward_intermediates(whole, indices=indices, norm=False, intermediates_only=True)
        if self.patch_px != self.stride:
            found = [self._resampled(x)[:, :, :rows, :columns] for x in found]
        at = dict(zip(indices, found, strict=True))
        return [at[block] for block in self.blocks]

    def _resampled(self, feature: Tensor) -> Tensor:
        how: dict[str, Any] = {"mode": "bilinear", "align_corners": False, "recompute_scale_factor": False}
        return functional.interpolate(feature, scale_factor=self.patch_px / self.stride, **how)


class SimplePyramid(nn.Module):
    """Li 2022 (ViTDet): four features at one stride -> strides 4, 8, 16, 32."""

    def __init__(self, width: int, stride: int) -> None:
        super().__init__()
        self.scalings = nn.ModuleList(self._scaling(width, round(math.log2(stride / goal))) for goal in STRIDES)

    @staticmethod
    def _scaling(width: int, doublings: int) -> nn.Module:
        if doublings <= 0:
            return nn.MaxPool2d(2**-doublings) if doublings else nn.Identity()
        double = [nn.ConvTranspose2d(width, width, 2, stride=2) for _ in range(doublings)]
        between = [step for one in double for step in (LayerNorm2d(width), nn.GELU(), one)]
        return nn.Sequential(*between[2:])

    def forward(self, levels: list[Tensor]) -> list[Tensor]:
        return [scale(x) for scale, x in zip(self.scalings, levels, strict=True)]


def resize(maps: Tensor, size: Sequence[int]) -> Tensor:
    """Bilinear, as in training."""
    return functional.interpolate(maps, size=tuple(size), mode="bilinear", align_corners=False).to(maps.dtype)


class Classifier(nn.Conv2d):
    """Logits in float32: eight bits of bfloat16 would tie."""

    def forward(self, input: Tensor) -> Tensor:
        with torch.autocast(input.device.type, enabled=False):
            return super().forward(input.float())


class SegFormer(nn.Module):
    """Xie 2021."""

    def __init__(self, cfg: dict[str, Any], channels: list[int], num_classes: int) -> None:
        super().__init__()
        width = cfg["channels"]
        self.projections = nn.ModuleList(nn.Conv2d(c, width, 1) for c in channels)
        self.fuse, self.classifier = _conv(len(channels) * width, width, 1), Classifier(width, num_classes, 1)

    def forward(self, levels: list[Tensor]) -> Any:
        size = levels[0].shape[2:]
        projected = [resize(project(x), size) for project, x in zip(self.projections, levels, strict=True)]
        return self.classifier(self.fuse(torch.cat(projected[::-1], 1)))


class Linear(nn.Module):
    """One map per level, summed at the finest."""

    def __init__(self, cfg: dict[str, Any], channels: list[int], num_classes: int) -> None:  # noqa: ARG002
        super().__init__()
        self.classifiers = nn.ModuleList(Classifier(width, num_classes, 1) for width in channels)

    def forward(self, levels: list[Tensor]) -> Any:
        size = levels[0].shape[2:]
        parts = zip(self.classifiers, levels, strict=True)
        return torch.stack([resize(classify(x), size) for classify, x in parts]).sum(0)


class UPerNet(nn.Module):
    """Xiao 2018."""

    def __init__(self, cfg: dict[str, Any], channels: list[int], num_classes: int) -> None:
        super().__init__()
        width, *finer, top = cfg["channels"], *channels
        self.pools = nn.ModuleList(nn.Sequential(nn.AdaptiveAvgPool2d(n), _conv(top, width, 1)) for n in (1, 2, 3, 6))
        self.bottleneck = _conv(top + 4 * width, width, 3)
        self.laterals = nn.ModuleList(_conv(c, width, 1) for c in finer)
        self.outputs = nn.ModuleList(_conv(width, width, 3) for _ in finer)
        self.fuse, self.classifier = _conv(len(channels) * width, width, 3), Classifier(width, num_classes, 1)

    def forward(self, levels: list[Tensor]) -> Any:
        return self.classifier(self.fused(levels))

    def fused(self, levels: list[Tensor]) -> Tensor:
        *finer, top = levels
        pooled = [resize(pool(top), top.shape[2:]) for pool in self.pools]
        maps = [lateral(x) for lateral, x in zip(self.laterals, finer, strict=True)]
        maps.append(self.bottleneck(torch.cat([top, *pooled], 1)))
        for i in range(len(finer) - 1, -1, -1):
            maps[i] = maps[i] + resize(maps[i + 1], maps[i].shape[2:])
        maps[:-1] = [output(x) for output, x in zip(self.outputs, maps[:-1], strict=True)]
        merged: Tensor = self.fuse(torch.cat([resize(x, maps[0].shape[2:]) for x in maps], 1))
        return merged


class KNet(nn.Module):
    """Zhang 2021."""

    def __init__(self, cfg: dict[str, Any], channels: list[int], num_classes: int) -> None:
        super().__init__()
        self.generator = UPerNet(cfg, channels, num_classes)
        self.stages = nn.ModuleList(_Stage(cfg["channels"]) for _ in range(cfg["num_stages"]))

    def forward(self, levels: list[Tensor]) -> Any:
        fused = self.generator.fused(levels)
        masks = self.generator.classifier(fused)
        kernels = self.generator.classifier.weight.flatten(1).expand(len(fused), -1, -1)
        for stage in self.stages:
            masks, kernels = stage(fused, kernels, masks)
        return masks


class _Stage(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.transform = nn.Conv2d(width, width, 1)
        self.update = _Update(min(width, 256))
        self.attention, self.attention_norm = nn.MultiheadAttention(width, 8, batch_first=True), nn.LayerNorm(width)
        self.feed_forward = nn.Sequential(nn.Linear(width, 4 * width), nn.ReLU(), nn.Linear(4 * width, width))
        self.feed_forward_norm = nn.LayerNorm(width)
        mask_kernel = nn.Linear(width, width, bias=False), nn.LayerNorm(width), nn.ReLU(), nn.Linear(width, width)
        self.mask_kernel = nn.Sequential(*mask_kernel)

    def forward(self, fused: Tensor, kernels: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
        fused = self.transform(fused)
        with torch.autocast(fused.device.type, enabled=False):
            share = masks.float().softmax(1)
            share = share / share.sum((2, 3), keepdim=True).clamp(min=1e-6)
            group = torch.einsum("bkhw,bdhw->bkd", share, fused.float())
        kernels = self.update(group, kernels)
        kernels = self.attention_norm(kernels + self.attention(kernels, kernels, kernels, need_weights=False)[0])
        kernels = self.feed_forward_norm(kernels + self.feed_forward(kernels))
        with torch.autocast(fused.device.type, enabled=False):
            return torch.einsum("bkd,bdhw->bkhw", self.mask_kernel(kernels.float()), fused.float()), kernels


class _Update(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.from_group, self.from_kernel = nn.Linear(width, 2 * width), nn.Linear(width, 2 * width)
        self.group_gate, self.kernel_gate = _gate(width), _gate(width)
        self.group_norm, self.kernel_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.out = nn.Sequential(nn.Linear(width, width), nn.LayerNorm(width), nn.ReLU())

    def forward(self, group: Tensor, kernels: Tensor) -> Tensor:
        pieces = *kernels.shape[:2], -1, self.width
        group_in, group_out = self.from_group(group.reshape(pieces)).chunk(2, -1)
        kernel_in, kernel_out = self.from_kernel(kernels.reshape(pieces)).chunk(2, -1)
        both = group_in * kernel_in
        merged = self.group_gate(both) * self.group_norm(group_out)
        updated: Tensor = self.out(merged + self.kernel_gate(both) * self.kernel_norm(kernel_out)).flatten(-2)
        return updated


HEADS: dict[str, Callable[[dict[str, Any], list[int], int], nn.Module]] = {
    "linear": Linear,
    "segformer": SegFormer,
    "upernet": UPerNet,
    "knet": KNet,
}


def mean_logits(networks: Sequence[nn.Module], image: Tensor) -> Tensor:
    """The logits of one network; of several, those of the mean of their probabilities."""
    if len(networks) == 1:
        logits: Tensor = networks[0](image)
        return logits
    logs = torch.stack([network(image).float().log_softmax(1) for network in networks])
    return (logs.logsumexp(0) - math.log(len(networks))).clamp(min=-60000.0)


def _whole(name: str) -> Any:
    with torch.device("meta"):
        return timm.create_model(name)


def _takes(model: nn.Module) -> set[str]:
    return {parameter for cls in type(model).__mro__ for parameter in inspect.signature(cls).parameters}


def _is_plain(name: str) -> bool:
    """Whether it is a transformer with features at one stride that takes images of any size."""
    if not timm.is_model(name) or ANY_GRID not in _takes(whole := _whole(name)):
        return False
    return len({level["reduction"] for level in whole.feature_info}) == 1


def _hierarchy(name: str) -> Any:
    levels, takes = _levels(name), _takes(_whole(name))
    args: dict[str, Any] = {key: value for key, value in ANY_SIZE.items() if key in takes}
    return timm.create_model(name, features_only=True, out_indices=[levels[s] for s in STRIDES], **args)


def _levels(name: str) -> dict[int, int]:
    """Stride -> timm's index of the deepest feature there; none of a model that timm lacks."""
    with torch.device("meta"):
        info: Any = timm.create_model(name, features_only=True).feature_info if timm.is_model(name) else None
    return dict(zip(info.reduction(), info.out_indices, strict=True)) if info else {}


def _conv(channels: int, width: int, kernel_px: int) -> nn.Sequential:
    conv = nn.Conv2d(channels, width, kernel_px, padding=kernel_px // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(width), nn.ReLU())


def _gate(width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, width), nn.LayerNorm(width), nn.Sigmoid())
