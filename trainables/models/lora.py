"""Low-rank adaptation of a transformer's attention (Hu 2021, LoRA, section 4.1): W = W0 + alpha / rank * B A.

W0 (out,in) keeps its value, A (rank,in) and B (out,rank) learn, and B starts at 0, so that the network begins as the
plain one. They are torch's parametrisations of the weights: modules stay what they are, under their own names, so that
timm's extraction of features, and attention that reads `qkv.weight` itself, know nothing of them. `merged_weights` are
those of the ordinary network, bit for bit what the adapted one computes with.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

_ADAPTED = frozenset({"qkv", "q_proj", "k_proj", "v_proj", "proj"})  # linear layers of a module `attn`
_INSIDE = ".parametrizations."


class LowRank(nn.Module):
    """W0 (out,in) -> W (out,in)."""

    def __init__(self, weight: Tensor, rank: int, alpha: float) -> None:
        super().__init__()
        self.scale = alpha / rank
        self.a = nn.Parameter(torch.empty(rank, weight.shape[1], device=weight.device, dtype=weight.dtype))
        self.b = nn.Parameter(torch.zeros(weight.shape[0], rank, device=weight.device, dtype=weight.dtype))
        nn.init.kaiming_uniform_(self.a, a=math.sqrt(5))  # as a linear layer's own weights

    def forward(self, weight: Tensor) -> Tensor:
        return weight + self.scale * (self.b @ self.a)


def adapt(body: nn.Module, name: str, rank: int, alpha: float) -> None:
    """Let only low-rank updates of the attention learn. ValueError where `name` has no such layers."""
    body.requires_grad_(False)
    layers = [
        layer
        for path, layer in body.named_modules()
        if isinstance(layer, nn.Linear) and path.split(".")[-2:-1] == ["attn"] and path.split(".")[-1] in _ADAPTED
    ]
    if not layers:
        raise ValueError(
            f"lora_rank needs a transformer with linear layers in its attention, got {name!r}; use 0, or a backbone "
            "such as vit_small_patch16_dinov3"
        )
    for layer in layers:
        parametrize.register_parametrization(layer, "weight", LowRank(layer.weight, rank, alpha))


def plain_name(name: str) -> str:
    """The weight that a parameter is part of: `qkv.parametrizations.weight.0.a` -> `qkv.weight`."""
    before, inside, after = name.partition(_INSIDE)
    return f"{before}.{after.partition('.')[0]}" if inside else name


def num_merged(model: nn.Module) -> int:
    """Values of the merged weights, which a training step makes and keeps for its backward pass."""
    adapted = (module for module in model.modules() if parametrize.is_parametrized(module, "weight"))
    return sum(module.parametrizations["weight"].original.numel() for module in adapted)  # type: ignore[index, union-attr]


def merged_weights(model: nn.Module) -> dict[str, Tensor]:
    """The state of the ordinary network that computes what `model` does."""
    state: dict[str, Tensor] = {name: value for name, value in model.state_dict().items() if _INSIDE not in name}
    for path, module in model.named_modules():
        if parametrize.is_parametrized(module, "weight"):
            state[f"{path}.weight"] = module.weight.detach()
    return state
