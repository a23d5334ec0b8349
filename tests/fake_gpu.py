"""A training step and a prediction on a device that has neither memory nor arithmetic, and which autocast treats as a
GPU: its tensors have sizes and types, no values. Run in a process of its own, since torch has one such device for good.

    python tests/fake_gpu.py     # one JSON object per case: what went from device to device, types, bytes per image
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from narrow_models import HEADS, narrowed
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from trainables.models.segmentor import build_segmentor
from trainables.recipe.recipe import Loss, Recipe
from trainables.training.losses import build_loss
from trainables.training.memory_estimate import AliveBytes, footprint
from trainables.training.training_step import TrainingStep

DEVICE = "fakegpu"
NUM_CLASSES, NUM_IMAGES, CROP_PX = 5, 2, 128
CASES = (
    ("convnext_atto", "upernet"),
    ("resnet18", "segformer"),
    ("swin_tiny_patch4_window7_224", "knet"),
    ("twins_svt_small", "mask_classification"),
    ("mit_b0", "deeplabv3plus"),
    ("beit_base_patch16_224", "segformer"),
    ("vit_tiny_patch16_dinov3_qkvb", "eomt"),
    ("vit_small_patch14_reg4_dinov2", "segmenter"),
    ("eva02_tiny_patch14_224", "dpt"),
)
LISTS = {"LOWER_PRECISION_FP": "low", "FP32": "float32", "FP32_SET_OPT_DTYPE": "result", "PROMOTE": "widest"}


class Module(backend_registration._DummyBackendModule):
    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]

    def is_available(self) -> bool:
        return True

    def is_initialized(self) -> bool:
        return True

    def current_device(self) -> int:
        return 0

    def device_count(self) -> int:
        return 1


class Autocast:
    """What torch's own autocast does on a GPU, by the lists in its header."""

    def __init__(self) -> None:
        self.kept: dict[int, Tensor] = {}  # weights in 16 bits, which are made once a step
        self.below = torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastPrivateUse1)
        every = torch.library.Library("_", "IMPL")
        every.fallback(torch.library.fallthrough_kernel, "AutocastPrivateUse1")
        some = torch.library.Library("aten", "IMPL")
        for name, kind in operators():
            some.impl(name, self.kernel(name, kind), "AutocastPrivateUse1")
        self.libraries = every, some  # they end with their objects

    def kernel(self, name: str, kind: str) -> Callable[..., Any]:
        operator, _, overload = name.partition(".")
        target = getattr(getattr(torch.ops.aten, operator), overload or "default")

        def run(*args: Any, **kwargs: Any) -> Any:
            low = torch.get_autocast_dtype(DEVICE)
            with torch._C._ExcludeDispatchKeyGuard(self.below):
                types = {value.dtype for value in tree_leaves(args) if self.takes(value)}
                if kind == "result":
                    return target(*args, **({"dtype": torch.float32} if types else {}) | kwargs)
                wanted = {"low": low, "float32": torch.float32}.get(
                    kind, torch.float32 if torch.float32 in types else low
                )
                args, kwargs = tree_map(lambda value: self.cast(value, wanted), (args, kwargs))
                if operator == "scaled_dot_product_attention" and args[0].ndim == 4:
                    return attend(*args, **kwargs)
                return target(*args, **kwargs)

        return run

    def takes(self, value: Any) -> bool:
        return (
            isinstance(value, Tensor)
            and value.is_floating_point()
            and value.dtype != torch.float64
            and value.device.type == DEVICE
        )

    def cast(self, value: Any, wanted: torch.dtype) -> Any:
        if not self.takes(value) or value.dtype == wanted:
            return value
        if wanted == torch.float32 or not (value.is_leaf and value.requires_grad):
            return value.to(wanted)
        return self.kept.setdefault(id(value), value.to(wanted))


def operators() -> Iterator[tuple[str, str]]:
    """("conv_transpose2d.input", "low"), ... of all operators in torch's header."""
    header = (Path(torch.__file__).parent / "include" / "ATen" / "autocast_mode.h").read_text(encoding="utf-8")
    for title, kind in LISTS.items():
        lines = re.search(rf"#define AT_FORALL_{title}\(_\)((?:.*\\\n)+.*)\n", header)
        assert lines, title
        for operator, overload in re.findall(r"_\((\w+)(?:, (\w+))?\)", lines[1]):
            if hasattr(getattr(torch.ops.aten, operator, None), overload or "default"):
                yield f"{operator}.{overload}" if overload else operator, kind


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None, *_: Any, **kwargs: Any) -> Any:
    """By one of a GPU's kernels, which keep no matrix and take one type alone."""
    mask = kwargs.get("attn_mask", mask)
    assert query.dtype == key.dtype == value.dtype
    assert mask is None or mask.dtype in (query.dtype, torch.bool)
    mask = None if mask is None else mask.expand(*query.shape[:3], key.shape[2])
    return torch.ops.aten._scaled_dot_product_efficient_attention(query, key, value, mask, True)[0]


class Crossings(TorchDispatchMode):
    """The operators that take tensors of one device and give some of another."""

    def __init__(self) -> None:
        super().__init__()
        self.found: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        given, made = (
            {one.device.type for one in tree_leaves(part) if isinstance(one, Tensor)} for part in ((args, kwargs), out)
        )
        if given and made and len(given | made) > 1:
            self.found.add(str(func))
        return out


def to_fake(module: nn.Module, mode: FakeTensorMode) -> None:
    for part in module.modules():
        for name, value in [*part._parameters.items()]:
            if value is not None:
                part._parameters[name] = nn.Parameter(fake(value, mode), requires_grad=value.requires_grad)
        part._buffers |= {name: fake(value, mode) for name, value in part._buffers.items() if value is not None}


def fake(tensor: Tensor, mode: FakeTensorMode) -> Tensor:
    empty = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")
    return FakeTensor(mode, empty, torch.device(DEVICE))


@contextmanager
def autocast(lists: Autocast, amp: torch.dtype | None) -> Iterator[None]:
    with torch.autocast(DEVICE, dtype=amp or torch.bfloat16, enabled=amp is not None):
        yield
    lists.kept.clear()


def recipe_of(backbone: str, head: str) -> Recipe:
    values: dict[str, Any] = {
        "backbone": {"name": backbone, "pretrained": False},
        "head": {"name": head} | HEADS.get(head, {}),
        "augmentation": {"crop_px": CROP_PX},
    }
    return Recipe.model_validate(values)


def outcome(lists: Autocast, backbone: str, head: str, amp: torch.dtype | None) -> dict[str, Any]:
    recipe = recipe_of(backbone, head)
    with torch.device("meta"):
        model = build_segmentor(recipe, NUM_CLASSES, pretrained=False)
    step = TrainingStep(model, build_loss(Loss(name="ce_dice"), NUM_CLASSES)).train()
    with FakeTensorMode() as mode, Crossings() as crossings:
        to_fake(step, mode)
        model.anneal(0.1)
        alive = AliveBytes(step)
        with alive:
            image = torch.empty(NUM_IMAGES, 3, CROP_PX, CROP_PX, device=DEVICE)
            label = torch.empty(NUM_IMAGES, CROP_PX, CROP_PX, dtype=torch.int64, device=DEVICE)
            step.loss = build_loss(Loss(), NUM_CLASSES)  # whose memory the estimate counts
            with autocast(lists, amp):
                loss = step(image, label, None)
            loss.backward()
        with torch.no_grad(), autocast(lists, amp):
            logits = model.eval()(image)
    learning = 4 * sum(parameter.numel() for parameter in model.parameters())
    return {
        "case": f"{backbone}-{head}-{'off' if amp is None else str(amp).removeprefix('torch.')}",
        "crossings": sorted(crossings.found),
        "loss": [str(loss.dtype), loss.device.type],
        "logits": [str(logits.dtype), logits.device.type],
        "bytes": (alive.peak - learning) // NUM_IMAGES,
        "estimated": footprint(recipe, NUM_CLASSES, low_precision=amp is not None).image_bytes,
    }


def main() -> None:
    backend_registration._setup_privateuseone_for_python_backend(DEVICE, backend_module=Module())
    lists = Autocast()
    with narrowed():
        for backbone, head in CASES:
            for amp in (torch.bfloat16, None):
                print(json.dumps(outcome(lists, backbone, head, amp)), flush=True)


if __name__ == "__main__":
    main()
