"""`FeatureExtractor`: a backbone's network and what is known of it, and what all of timm's have in common."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import timm
import torch
from timm.layers.drop import DropPath
from timm.layers.norm import RmsNorm, RmsNorm2d
from timm.models import group_parameters
from torch import nn

from trainables.models.input_sizes import InputSizes
from trainables.models.pretrained import LoadReport, load_file, load_timm_weights, matching_keys
from trainables.recipe.recipe import Backbone

NOTHING_LOADED = LoadReport("random initialisation")
_IN_BLOCK_NORMS = (nn.LayerNorm, nn.GroupNorm, RmsNorm, RmsNorm2d)


@dataclass
class FeatureExtractor:
    """`body` takes images (B,C,H,W) and gives features, `channels[i]` wide at `strides[i]`.

    `layer_of` is each parameter's depth in the body (0 the stem), `stage_of` its stage, or a plain transformer's block
    (0 the stem, and of a model that names none), `no_weight_decay` the names exempt from weight decay. `residual`: the
    features are a residual stream of no fixed scale, to be normalised before they are read.
    """

    body: nn.Module
    channels: list[int]
    strides: list[int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    residual: bool
    channels_last: bool = False  # features (B,h,w,C)
    sizes: InputSizes = field(default_factory=InputSizes)
    layer_of: Mapping[str, int] = field(default_factory=dict)
    stage_of: Mapping[str, int] = field(default_factory=dict)
    no_weight_decay: frozenset[str] = frozenset()
    load_report: LoadReport = NOTHING_LOADED


def whole_model(cfg: Backbone, options: Mapping[str, Any], in_chans: int) -> tuple[Any, dict[str, Any]]:
    """timm's model of `cfg` with its classifier, on the meta device, and the arguments that it was built with.

    `options` are passed where the model takes them. Raises ValueError for a drop_path that it does not take.
    """
    with torch.device("meta"):
        whole = timm.create_model(cfg.name)
        accepted = _accepted(type(whole))
        args = {key: value for key, value in options.items() if key in accepted}
        if cfg.drop_path and "drop_path_rate" not in accepted:
            raise ValueError(no_drop_path(cfg))
        if cfg.drop_path or ("drop_path_rate" in accepted and _drops_paths(whole)):  # timm's Swin does by default
            args["drop_path_rate"] = cfg.drop_path
        if in_chans != 3:
            args["in_chans"] = in_chans
        if args:
            whole = timm.create_model(cfg.name, **args)
    return whole, args


def _accepted(model: type) -> set[str]:
    """Names of the arguments that a class takes, those included that it hands on to the classes under it."""
    names: set[str] = set()
    for cls in model.__mro__:
        parameters = inspect.signature(cls.__dict__.get("__init__", object.__init__)).parameters
        names |= set(parameters)
        if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
            break
    return names


def shaping(model_args: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
    """Those arguments that can change the features' shapes: what a dry pass finds is kept for these."""
    return tuple((key, value) for key, value in model_args.items() if key != "drop_path_rate")


def check_drop_path(body: nn.Module, cfg: Backbone) -> None:
    """Raise ValueError where drop_path was asked for and reached no block."""
    if cfg.drop_path and not _drops_paths(body):
        raise ValueError(no_drop_path(cfg))


def _drops_paths(model: nn.Module) -> bool:
    return any(isinstance(module, DropPath) and module.drop_prob for module in model.modules())


def no_drop_path(cfg: Backbone) -> str:
    return f"drop_path must be 0 for {cfg.name!r}, which has no stochastic depth in timm, got {cfg.drop_path}; use 0"


def load_weights(body: nn.Module, whole: Any, cfg: Backbone, model_args: Mapping[str, Any]) -> LoadReport:
    """Fill `body` as `cfg` says; nothing on the meta device. Raises ValueError where that cannot be done."""
    if not cfg.pretrained or next(body.parameters()).device.type == "meta":
        return NOTHING_LOADED
    if cfg.weights_file is not None:
        return load_file(body, whole, Path(cfg.weights_file), cfg.name)
    return load_timm_weights(body, cfg.name, model_args)


def normalises_in_blocks(body: nn.Module) -> bool:
    return any(isinstance(module, _IN_BLOCK_NORMS) for module in body.modules())


def statistics(values: Sequence[float], in_chans: int) -> tuple[float, ...]:
    """Mean or standard deviation for `in_chans` channels: the weights' own, repeated as timm repeats their filters."""
    return tuple(values[channel % len(values)] for channel in range(in_chans))


def layers(body: nn.Module, whole: Any) -> dict[str, Any]:
    """`layer_of`, `stage_of` and `no_weight_decay` of a `FeatureExtractor`, as timm's whole model states them.

    A model that names no layers is one layer.
    """
    names = [name for name, _ in body.named_parameters()]
    full_name = matching_keys(names, [name for name, _ in whole.named_parameters()])

    def groups(coarse: bool) -> dict[str, int]:
        depth: dict[str, int] = {}
        if hasattr(whole, "group_matcher"):
            depth = group_parameters(whole, whole.group_matcher(coarse=coarse), reverse=True)
        return {name: depth.get(full_name.get(name, ""), 0) for name in names}

    exempt = set(whole.no_weight_decay()) if hasattr(whole, "no_weight_decay") else set()
    kept = frozenset(name for name, full in full_name.items() if full in exempt)
    return {"layer_of": groups(coarse=False), "stage_of": groups(coarse=True), "no_weight_decay": kept}


@contextlib.contextmanager
def as_value_error(name: str, where: str, remedy: str) -> Iterator[None]:
    """Turn timm's many errors for a model without features, or with one image size, into a ValueError."""
    try:
        yield
    except (AssertionError, AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        reason = str(error).split("\n")[0]
        raise ValueError(
            f"backbone {name!r} does not work {where} in timm ({type(error).__name__}: {reason}); use {remedy}"
        ) from error
