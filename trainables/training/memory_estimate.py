"""Estimates how much of a device's memory a trial takes, and checks its shapes, without a device.

The network is built on the meta device, and one training step is run on fake tensors, which have sizes and no values,
counting what is alive at once: images, activations, gradients, cross-entropy over full-size logits. Weights, the
optimiser's state and the EMA are added from the number of parameters. Memory that libraries take besides (work space,
fragments, the CUDA context: about 1 GiB) is not counted: a trial that does not fit by this estimate does not fit.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from trainables.models.lora import num_merged
from trainables.models.segmentor import Segmentor, adapt_as, build_segmentor
from trainables.recipe.augmentation import Augmentation
from trainables.recipe.recipe import Loss, Optimizer, Recipe, Train
from trainables.training.feature_cache import check_size, keeps_features
from trainables.training.losses import build_loss
from trainables.training.state import checkpoint_gradients
from trainables.training.training_step import TrainingStep

_FLOAT_BYTES = 4
# float32 values that an optimiser keeps for each parameter
_OPTIMIZER_VALUES = {"adamw": 2, "nadamw": 2, "lamb": 2, "sgd": 1}
_MEASURED_BATCH = 2  # images; of one alone a batch norm over pooled features has no variance
# the others' cost depends on the labels: Lovász sorts the pixels of each class
_CROSS_ENTROPY = build_loss(Loss(), 2)
# of what autocast computes in float32 on a GPU, and on a CPU in the type that comes in: what networks here call
_FLOAT32_ON_GPUS = (
    *(functional.interpolate, functional.layer_norm, functional.group_norm, functional.rms_norm),
    *(functional.softmax, functional.log_softmax, torch.softmax, Tensor.softmax, Tensor.log_softmax),
)
# what a network does not depend on; without it more recipes share one build
_ANY = {"augmentation": Augmentation(), "loss": Loss(), "optimizer": Optimizer(), "train": Train(), "seed": 0}


@dataclass(frozen=True)
class Footprint:
    """Parameters of the network; bytes that stay while it trains; bytes that each image of a micro-batch adds."""

    num_params: int
    fixed_bytes: int
    image_bytes: int

    def bytes(self, micro_batch: int) -> int:
        """At a training step's peak, with so many images at once."""
        return self.fixed_bytes + micro_batch * self.image_bytes


def num_params(recipe: Recipe, num_classes: int) -> int:
    """Parameters of the network. Raises ValueError where it cannot be built."""
    return _count(recipe.model_copy(update=_ANY), num_classes)


def footprint(recipe: Recipe, num_classes: int, *, low_precision: bool) -> Footprint:
    """Memory of training with `recipe`; `low_precision` is what amp auto comes to on the device.

    Raises ValueError where the network cannot be built or does not take the crop.
    """
    low = {"auto": low_precision, "bf16": True, "fp16": True}.get(recipe.train.amp, False)
    kept: dict[str, Any] = {
        "augmentation": Augmentation(crop_px=recipe.augmentation.crop_px),
        "train": Train(grad_checkpointing=recipe.train.grad_checkpointing, amp="bf16" if low else "off"),
    }
    count, learning, merged, image_bytes = _training_step(recipe.model_copy(update=_ANY | kept), num_classes)
    copies = count * (1 + (recipe.train.ema_decay is not None))  # weights and their average
    copies += learning * (1 + _OPTIMIZER_VALUES[recipe.optimizer.name])  # gradients, and what the optimiser keeps
    copies += merged
    return Footprint(count, copies * _FLOAT_BYTES, image_bytes)


def check_views(recipe: Recipe, num_classes: int, sizes: Sequence[tuple[int, int]]) -> None:
    """Raises ValueError where the network does not take images of these sizes (height, width) at inference."""
    _inference(recipe.model_copy(update=_ANY), num_classes, tuple(sorted(set(sizes))))


def check_kept(recipe: Recipe, num_classes: int, num_images: int) -> None:
    """Raises ValueError where the features that are kept of so many training images exceed `train.cache_gb`."""
    if keeps_features(recipe):
        crop_px = recipe.augmentation.crop_px
        kept = {"augmentation": Augmentation(crop_px=crop_px)}
        found = _feature_bytes(recipe.model_copy(update=_ANY | kept), num_classes)
        check_size(recipe, found + crop_px**2, num_images)  # with the labels, a byte a pixel


@functools.lru_cache(maxsize=256)
def _feature_bytes(recipe: Recipe, num_classes: int) -> int:
    model, crop_px = _on_meta(recipe, num_classes).eval(), recipe.augmentation.crop_px
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        _fake(model)
        with _told(recipe, crop_px, crop_px):
            features = model.backbone.read(torch.empty(1, 3, crop_px, crop_px))
    assert isinstance(features, list)
    return sum(feature.nbytes for feature in features)


@functools.lru_cache(maxsize=256)
def _count(recipe: Recipe, num_classes: int) -> int:
    return sum(p.numel() for p in _on_meta(recipe, num_classes).parameters())


@functools.lru_cache(maxsize=256)
def _training_step(recipe: Recipe, num_classes: int) -> tuple[int, int, int, int]:
    """Parameters, those that learn, values of weights that LoRA merges, and bytes that each image adds: the peak of a
    step, less its gradients and merged weights, over the batch."""
    model, crop_px = _on_meta(recipe, num_classes), recipe.augmentation.crop_px
    with torch.device("meta"):
        adapt_as(model, recipe.backbone)
    num_weights = sum(p.numel() for p in model.parameters())
    num_learning, merged = sum(p.numel() for p in model.parameters() if p.requires_grad), num_merged(model)
    with FakeTensorMode(allow_non_fake_inputs=True):
        _fake(model)
        alive = AliveBytes(model)
        if recipe.train.grad_checkpointing:
            checkpoint_gradients(model)
        step = TrainingStep(model, _CROSS_ENTROPY)
        with alive, _AsOnGpus(), _told(recipe, crop_px, crop_px):
            image = torch.empty(_MEASURED_BATCH, 3, crop_px, crop_px)
            label = torch.empty(_MEASURED_BATCH, crop_px, crop_px, dtype=torch.int64)
            with _autocast(recipe.train.amp):
                loss = step(image, label, None)
            loss.backward()
    left = alive.peak - _FLOAT_BYTES * (num_learning + merged)
    return num_weights, num_learning, merged, max(0, left) // _MEASURED_BATCH


@functools.lru_cache(maxsize=256)
def _inference(recipe: Recipe, num_classes: int, sizes: tuple[tuple[int, int], ...]) -> None:
    model = _on_meta(recipe, num_classes).eval()
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        _fake(model)
        for height, width in sizes:
            with _told(recipe, height, width):
                shape = tuple(model(torch.empty(1, 3, height, width)).shape)
            grid = (1, num_classes, -(-height // model.stride), -(-width // model.stride))
            if shape != grid:
                raise ValueError(
                    f"{recipe.head.name} over {recipe.backbone.name} must give logits {grid} for {height} x {width} "
                    f"px, got {shape}; use another head or backbone"
                )


def _on_meta(recipe: Recipe, num_classes: int) -> Segmentor:
    with torch.device("meta"):
        return build_segmentor(recipe, num_classes, pretrained=False)


def _fake(model: Segmentor) -> None:
    """Parameters and buffers as fake ones of a CPU, where attention has a kernel that keeps no matrix, as on GPUs."""
    model._apply(  # type: ignore[no-untyped-call, unused-ignore]
        lambda tensor: torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="cpu")
    )


def _autocast(amp: str) -> torch.autocast:
    return torch.autocast("cpu", dtype=torch.bfloat16, enabled=amp != "off")


class _AsOnGpus(TorchFunctionMode):
    """A network as a GPU computes it: autocast takes more of it in float32 than on a CPU, and attention has a kernel
    that keeps no matrix where what is added to it learns, too."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is functional.scaled_dot_product_attention:
            return _attention(*args, **(kwargs or {}))
        if func in _FLOAT32_ON_GPUS and torch.is_autocast_enabled("cpu"):
            args = tuple(value.float() if isinstance(value, Tensor) else value for value in args)
        return func(*args, **(kwargs or {}))


def _attention(query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, **options: Any) -> Tensor:
    if attn_mask is None or not attn_mask.requires_grad or query.ndim != 4:
        return functional.scaled_dot_product_attention(query, key, value, attn_mask, **options)
    bias = attn_mask.to(query.dtype).expand(*query.shape[:3], key.shape[2])
    found: Tensor = torch.ops.aten._scaled_dot_product_efficient_attention(query, key, value, bias, True)[0]
    return found


@contextlib.contextmanager
def _told(recipe: Recipe, height_px: int, width_px: int) -> Iterator[None]:
    """Every network raises an error of its own for a size that it does not take."""
    try:
        yield
    except (AssertionError, IndexError, RuntimeError, TypeError) as error:
        reason = str(error).split("\n")[0]
        raise ValueError(
            f"{recipe.head.name} over {recipe.backbone.name} does not take images of {height_px} x {width_px} px "
            f"({type(error).__name__}: {reason}); use another crop_px, other tta.scales or another backbone"
        ) from error


class AliveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call, unused-ignore]
    """Bytes of the storages that operators make and that are still referred to: now, and at most. Those of a module's
    own weights, which a linear layer's transposed view has too, are not among them."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call, unused-ignore]
        self.now = self.peak = 0
        tensors = itertools.chain(model.parameters(), model.buffers())
        self._known = {tensor.untyped_storage()._cdata for tensor in tensors}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for value in tree_iter(out):
            if isinstance(value, Tensor):
                self._add(value)
        return out

    def _add(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage._cdata in self._known:
            return
        self._known.add(storage._cdata)
        self.now += storage.nbytes()
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._drop, storage._cdata, storage.nbytes())

    def _drop(self, key: int, num_bytes: int) -> None:
        self._known.discard(key)
        self.now -= num_bytes
