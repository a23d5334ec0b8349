"""Weights of a network as one safetensors file."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from trainables.files import write_atomically

BEST_WEIGHTS, BEST_JSON = "best.safetensors", "best.json"
REFIT_WEIGHTS = "refit.safetensors"  # of a recipe that was trained on all folds; described as a fold model's are


def fold_weights(fold: int) -> str:
    """The name of a fold model's weights. As with the best ones, a JSON file of the same stem describes them."""
    return f"fold-{fold}.safetensors"


def save_weights(path: Path, weights: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write named tensors as safetensors; `metadata` travels in the header."""
    # own memory each: safetensors refuses tensors that share storage or are not laid out row by row
    owned = {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in weights.items()}
    write_atomically(path, lambda temporary: save_file(owned, temporary, metadata=dict(metadata or {})))


def weight_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes of what `load_weights` would read, from the header alone. ValueError as there."""
    if not path.is_file():
        raise ValueError(f"a weights file must exist, got {path}; check the path")
    try:
        with safe_open(path, framework="pt") as file:  # type: ignore[no-untyped-call, unused-ignore]
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path} cannot be read as safetensors ({error}); it was cut short; make it again") from error


def load_weights(path: Path) -> dict[str, Tensor]:
    """Read what `save_weights` wrote, on the CPU. ValueError where the file is absent or cut short."""
    if not path.is_file():
        raise ValueError(f"a weights file must exist, got {path}; check the path")
    try:
        with safe_open(path, framework="pt") as file:  # type: ignore[no-untyped-call, unused-ignore]
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (no iterator there)
    except SafetensorError as error:
        raise ValueError(
            f"{path} cannot be read as safetensors ({path.stat().st_size} bytes: {error}); it was cut short or is "
            "another format; make it again"
        ) from error


def fingerprint(path: Path) -> str:
    """16 hex digits of the file's SHA-256."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]
