"""Loads pretrained weights into a feature extractor, and records what was loaded.

Weights are timm's own or a local .safetensors or .pth file. A file that does not fill every tensor of the extractor is
refused with the number of those that fit; tensors that only a classifier needs may be missing or left over.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from timm.models import adapt_input_conv
from torch import Tensor, nn

SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")
# What timm's modules call the function that reads other people's checkpoints (and resizes position tables).
_FILTERS = (
    "checkpoint_filter_fn",
    "checkpoint_filter_fn_encoder",
    "_filter_fn",
    "_filter_torchvision_pretrained",
)
_COUNTERS = "num_batches_tracked"  # absent from old checkpoints; batch norm with a momentum never reads it


@dataclass(frozen=True)
class LoadReport:
    """Names of tensors: `loaded` and `resized` (a subset) of the extractor, `skipped` of the file."""

    source: str
    loaded: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()
    resized: tuple[str, ...] = ()

    def __str__(self) -> str:
        if not self.loaded:
            return self.source
        left = f"; skipped: {', '.join(self.skipped)}" if self.skipped else ""
        return f"{self.source}: {len(self.loaded)} tensors loaded, {len(self.resized)} of them resized{left}"


def matching_keys(extractor: Iterable[str], whole: Iterable[str]) -> dict[str, str]:
    """Name in the feature extractor -> name in the whole model, for those that both have.

    timm's extractors rename by flattening ('stages.0.blocks' -> 'stages_0.blocks') or by nesting ('model.', 'body.').
    """
    names = list(extractor)
    prefix = next((p for p in ("model.", "body.") if all(n.startswith(p) for n in names)), "")
    flat = {name.replace(".", "_"): name for name in whole}
    flattened = {name: name.removeprefix(prefix).replace(".", "_") for name in names}
    return {name: flat[key] for name, key in flattened.items() if key in flat}


def load_timm_weights(extractor: nn.Module, name: str, model_args: Mapping[str, Any]) -> LoadReport:
    """Fill `extractor` with timm's weights for `name` (from the cache or the network).

    The whole model is loaded, because timm is strict there and not for extractors. Raises ValueError where the
    weights are not available, with what was tried and the two remedies.
    """
    tried = _where(name)
    try:
        whole = timm.create_model(name, pretrained=True, **model_args)
    except Exception as error:  # the hub, the network and the disk each raise their own kinds
        raise unavailable(name, tried, error) from error
    return _fill(extractor, dict(whole.state_dict()), (), source=f"timm weights of {name}", name=name)


def unavailable(name: str, tried: str, error: Exception) -> ValueError:
    """The error for weights that are not available from `tried`, with the two remedies."""
    reason = str(error).strip().split("\n")[0][:200]
    return ValueError(
        f"the pretrained weights of {name!r} are not available; tried {tried}: {type(error).__name__}: {reason}. "
        "Give a local file as `model.weights_file` (a .safetensors or .pth of this model), or train from "
        "scratch with `model.pretrained: false`"
    )


def load_file(
    extractor: nn.Module, whole: nn.Module, path: Path, name: str, *, source: str | None = None
) -> LoadReport:
    """Fill `extractor` from a file; `whole` is the model it was cut from (the meta device will do), for shapes.

    `source` names what the file is, where it is not one that the user gave. Raises ValueError where the file is
    missing, unreadable, or of another model.
    """
    state = _read(path)
    original = {key: tuple(value.shape) for key, value in state.items()}
    try:
        state = _from_foreign(state, whole, name)
    except Exception as error:  # timm's filters assume their own model and fail in many ways on another's
        fitting = len(matching_keys(whole.state_dict(), state))
        raise ValueError(
            f"weights_file {path} is not of {name!r}: {fitting} of {len(whole.state_dict())} names fit and timm's "
            f"reading of it failed ({type(error).__name__}: {error}); give a file of {name.split('.')[0]!r}"
        ) from error
    _adapt_input(state, {key: value.shape for key, value in whole.state_dict().items()})
    resized = [key for key, value in state.items() if original.get(key, value.shape) != tuple(value.shape)]
    return _fill(extractor, state, resized, source=source or f"weights_file {path}", name=name)


def _fill(
    extractor: nn.Module, state: dict[str, Tensor], resized: Iterable[str], *, source: str, name: str
) -> LoadReport:
    own = extractor.state_dict()
    found = matching_keys(own, state)
    other = [key for key, full in found.items() if own[key].shape != state[full].shape]
    missing = [key for key in own if key not in found and not key.endswith(_COUNTERS)]
    if missing or other:
        raise ValueError(
            f"{source} is not of {name!r}: {len(found) - len(other)} of {len(own)} tensors fit, "
            f"{len(missing)} are missing{_some(missing)}, {len(other)} have another shape{_some(other)}; "
            f"give a file of {name.split('.')[0]!r}, or train from scratch with `model.pretrained: false`"
        )
    extractor.load_state_dict({key: state[full] for key, full in found.items()}, strict=False)
    changed = set(resized)
    return LoadReport(
        source=source,
        loaded=tuple(found),
        skipped=tuple(sorted(set(state) - set(found.values()))),
        resized=tuple(key for key, full in found.items() if full in changed),
    )


def _read(path: Path) -> dict[str, Tensor]:
    if path.suffix not in SUFFIXES:
        raise ValueError(f"weights_file must end in one of {', '.join(SUFFIXES)}, got {path}")
    if not path.is_file():
        raise ValueError(f"weights_file {path} does not exist; correct the path or leave weights_file out")
    try:
        state = timm.models.load_state_dict(str(path), weights_only=True)
    except Exception as error:  # safetensors, zipfile, pickle and torch each raise their own kinds
        reason = re.sub(r"\s+", " ", str(error))[:200]
        raise ValueError(f"weights_file {path} cannot be read: {type(error).__name__}: {reason}") from error
    tensors = {key: value for key, value in state.items() if isinstance(value, Tensor)}
    if not tensors:
        raise ValueError(f"weights_file {path} holds no tensors; give a state dict of the timm model")
    return tensors


def _adapt_input(state: dict[str, Tensor], shapes: Mapping[str, torch.Size]) -> None:
    """RGB filters, in place, for a model of other input channels: repeated, or summed for one, as timm does."""
    for key, value in state.items():
        wanted = shapes.get(key)
        if wanted is not None and value.ndim == len(wanted) == 4 and value.shape[1] == 3 != wanted[1]:
            state[key] = adapt_input_conv(wanted[1], value)


def _from_foreign(state: dict[str, Tensor], whole: nn.Module, name: str) -> dict[str, Tensor]:
    """`state` as timm reads other people's checkpoints of this model; as it is where timm has no such reader."""
    if not timm.is_model(name):
        return state
    module = sys.modules[timm.models.model_entrypoint(name.split(".")[0]).__module__]
    for filter_name in _FILTERS:
        reader: Any = getattr(module, filter_name, None)
        if reader is not None:
            takes_model = len(inspect.signature(reader).parameters) > 1
            return dict(reader(dict(state), whole) if takes_model else reader(dict(state)))
    return state


def _where(name: str) -> str:
    """The one place that timm checks after its cache."""
    cfg = timm.models.get_pretrained_cfg(name)
    if cfg is None or not cfg.has_weights:
        return "nothing: timm has no weights of this name"
    return f"the Hugging Face hub ({cfg.hf_hub_id})" if cfg.hf_hub_id else str(cfg.url)


def _some(names: list[str]) -> str:
    return f" ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})" if names else ""
