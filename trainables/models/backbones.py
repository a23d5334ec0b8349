"""A timm model as a pyramid.

Enters: images (B,3,H,W), H and W multiples of 32, normalised with `.mean` and `.std`. Leaves: four features
(B,C_i,H/s_i,W/s_i), s = 4, 8, 16, 32, channels first whatever timm's own layout is.

Each level that the head reads gets a LayerNorm over channels where the model normalises inside its blocks (LayerNorm,
GroupNorm or RMSNorm: ConvNeXt, Swin, ...): such stages end in a residual stream of no fixed scale, which timm gives as
it is and which the papers' own segmentation code normalises likewise. Batch-norm models (ResNet, ...) end in a
normalised ReLU and get none.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from timm.layers.drop import DropPath
from timm.layers.format import Format
from timm.layers.norm import LayerNorm2d, RmsNorm, RmsNorm2d
from timm.models import group_parameters
from torch import Tensor, nn

from trainables.models.names import check_backbone_name
from trainables.models.weights import LoadReport, load_file, load_timm_weights, matching_keys
from trainables.recipe import Backbone

STRIDES = (4, 8, 16, 32)
_HIERARCHICAL = "convnext_tiny, swin_tiny_patch4_window7_224 or resnet50"
_PROBE_PX = (96, 160)  # multiples of 32 that no model has as its own size
_IN_BLOCK_NORMS = (nn.LayerNorm, nn.GroupNorm, RmsNorm, RmsNorm2d)
# Swin: take any image size, and shift windows in every stage (at 224 px, timm's default, the last stage is one window
# and has no shift; larger images need it, as in Liu 2021's segmentation code).
_ANY_SIZE = {"strict_img_size": False, "always_partition": True}


class PyramidBackbone(nn.Module):
    """image (B,3,H,W) -> four features at `.strides`, `.channels` wide.

    `layer_of` gives each parameter's depth (0 the stem) for layer-wise learning-rate decay; `no_weight_decay` the
    names that timm exempts from weight decay; `load_report` what the weights came from.
    """

    def __init__(self, body: Any, whole: Any, levels: Sequence[int]) -> None:
        super().__init__()
        self.body = body
        self.strides = list(STRIDES)
        self.channels: list[int] = body.feature_info.channels()
        self.mean: tuple[float, ...] = tuple(whole.pretrained_cfg["mean"])
        self.std: tuple[float, ...] = tuple(whole.pretrained_cfg["std"])
        self.load_report = LoadReport("random initialisation")
        self._channels_last = _is_channels_last(body)
        normalise = any(isinstance(module, _IN_BLOCK_NORMS) for module in body.modules())
        self.norms = nn.ModuleList(
            LayerNorm2d(channels) if normalise and level in levels else nn.Identity()
            for level, channels in enumerate(self.channels)
        )
        self.layer_of, self.no_weight_decay = _layers(self, whole)

    def forward(self, image: Tensor) -> list[Tensor]:
        features = self.body(image)
        if self._channels_last:
            features = [feature.permute(0, 3, 1, 2) for feature in features]  # (B,h,w,C) -> (B,C,h,w)
        return [norm(feature) for norm, feature in zip(self.norms, features, strict=True)]


def build_backbone(cfg: Backbone, *, levels: Sequence[int] = (0, 1, 2, 3)) -> PyramidBackbone:
    """The pyramid of `cfg.name`, its weights loaded as `cfg` says.

    `levels` are those that the head reads (0 is stride 4): the others are left without a norm of their own, so that
    every parameter gets a gradient. Raises ValueError for an unknown name, a model without features at strides 4 to
    32, a drop_path that the model does not take, and weights that cannot be had or do not fit.
    """
    check_backbone_name(cfg.name)
    with torch.device("meta"):
        whole = timm.create_model(cfg.name)
        model_args = _model_args(cfg, whole)
        if model_args:
            whole = timm.create_model(cfg.name, **model_args)
    indices = _level_indices(cfg.name, tuple(model_args.items()))
    with _as_value_error(cfg.name):
        body = timm.create_model(cfg.name, features_only=True, out_indices=indices, **model_args)
    if cfg.drop_path and not any(isinstance(m, DropPath) and m.drop_prob for m in body.modules()):
        raise ValueError(_no_drop_path(cfg))
    backbone = PyramidBackbone(body, whole, levels)
    if cfg.pretrained and next(body.parameters()).device.type != "meta":
        if cfg.weights_file is not None:
            backbone.load_report = load_file(body, whole, Path(cfg.weights_file), cfg.name)
        else:
            backbone.load_report = load_timm_weights(body, cfg.name, model_args)
    return backbone


def _model_args(cfg: Backbone, whole: Any) -> dict[str, Any]:
    accepted = inspect.signature(type(whole).__init__).parameters
    args: dict[str, Any] = {key: value for key, value in _ANY_SIZE.items() if key in accepted}
    if cfg.drop_path:
        if "drop_path_rate" not in accepted:
            raise ValueError(_no_drop_path(cfg))
        args["drop_path_rate"] = cfg.drop_path
    return args


def _no_drop_path(cfg: Backbone) -> str:
    return f"drop_path must be 0 for {cfg.name!r}, which has no stochastic depth in timm, got {cfg.drop_path}; use 0"


@functools.cache
def _level_indices(name: str, model_args: tuple[tuple[str, Any], ...]) -> tuple[int, ...]:
    """Which of timm's outputs lie at strides 4, 8, 16, 32 (the deepest where several do).

    A pass on the meta device shows that they do for any multiple of 32: some models have one input size, and some
    state strides that hold for none (unpadded convolutions).
    """
    with torch.device("meta"), _as_value_error(name):
        probe: Any = timm.create_model(name, features_only=True, **dict(model_args))
    strides = probe.feature_info.reduction()
    index_at = dict(zip(strides, probe.feature_info.out_indices, strict=True))
    if not set(STRIDES) <= set(index_at):
        raise ValueError(
            f"backbone {name!r} has features at strides {strides}, and a pyramid needs 4, 8, 16 and 32; "
            f"use a hierarchical model, such as {_HIERARCHICAL}"
        )
    with torch.device("meta"), torch.no_grad(), _as_value_error(name, f"on {_PROBE_PX[0]} x {_PROBE_PX[1]} px"):
        features = probe.eval()(torch.empty(1, 3, *_PROBE_PX))
    rows = slice(1, 3) if _is_channels_last(probe) else slice(2, 4)
    size_at = {stride: tuple(feature.shape[rows]) for stride, feature in zip(strides, features, strict=True)}
    expected = [(_PROBE_PX[0] // stride, _PROBE_PX[1] // stride) for stride in STRIDES]
    if [size_at[stride] for stride in STRIDES] != expected:
        raise ValueError(
            f"backbone {name!r} must give features of {expected} for {_PROBE_PX[0]} x {_PROBE_PX[1]} px, "
            f"got {size_at}; use another model, such as {_HIERARCHICAL}"
        )
    return tuple(index_at[stride] for stride in STRIDES)


def _is_channels_last(body: Any) -> bool:
    return bool(getattr(body, "output_fmt", Format.NCHW) == Format.NHWC)


@contextlib.contextmanager
def _as_value_error(name: str, where: str = "as a feature pyramid") -> Iterator[None]:
    """timm has no one way to say that a model gives no features, or takes one size of image only."""
    try:
        yield
    except (AssertionError, AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
        reason = str(error).split("\n")[0]
        raise ValueError(
            f"backbone {name!r} does not work {where} in timm ({type(error).__name__}: {reason}); "
            f"use a model of any image size, such as {_HIERARCHICAL}"
        ) from error


def _layers(backbone: PyramidBackbone, whole: Any) -> tuple[dict[str, int], frozenset[str]]:
    """Depth of each parameter and the names without weight decay, both as timm's whole model states them.

    The level norms come after everything: they share the depth of the last layer. A model that names no layers is one.
    """
    depth: dict[str, int] = {}
    if hasattr(whole, "group_matcher"):
        depth = group_parameters(whole, whole.group_matcher(coarse=False), reverse=True)
    exempt = set(whole.no_weight_decay()) if hasattr(whole, "no_weight_decay") else set()
    names = [name for name, _ in backbone.body.named_parameters()]
    full_name = matching_keys(names, [name for name, _ in whole.named_parameters()])
    layer_of = {f"body.{name}": depth.get(full_name.get(name, ""), 0) for name in names}
    last = max(layer_of.values())
    layer_of |= {f"norms.{name}": last for name, _ in backbone.norms.named_parameters()}
    return layer_of, frozenset(f"body.{name}" for name, full in full_name.items() if full in exempt)
