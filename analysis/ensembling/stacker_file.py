"""Writes a stacker beside the JSON that names it, and reads it back, verified; nothing in the file can run code.

A safetensors file: `weight.0`, `bias.0` and, with a hidden layer, `weight.1`, `bias.1`, float32, as `Stacker.layers`
has them, and `fitted` (K,) uint8, 1 for a class that the stacker was fitted on.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from analysis.ensembling.fitted_rule import MAX_STACKER_BYTES, StackerFile
from analysis.voting.stacker import Stacker
from analysis.voting.votes import Vote
from trainables.files import write_atomically


def write_stackers(folder: Path, votes: Mapping[str, Vote]) -> dict[str, StackerFile]:
    """Write the stackers of stacked votes, by rule, each named after the first rule that has it; rules whose stackers
    differ in strength alone share a file."""
    written: dict[str, StackerFile] = {}
    found = {}
    for rule, vote in votes.items():
        if vote.stacker is None:
            continue
        if vote.stacker.map_key not in written:
            written[vote.stacker.map_key] = _write(folder / f"{rule}.safetensors", vote.stacker)
        file = written[vote.stacker.map_key]
        found[rule] = file.model_copy(update={"strength": float(vote.stacker.strength)})
    return found


def _write(path: Path, stacker: Stacker) -> StackerFile:
    tensors = {"fitted": stacker.fitted.astype(np.uint8)}
    for n, layer in enumerate(stacker.layers):
        tensors[f"{('weight', 'bias')[n % 2]}.{n // 2}"] = np.ascontiguousarray(layer, np.float32)
    raw = save(tensors)
    write_atomically(path, lambda temporary: temporary.write_bytes(raw))
    return StackerFile(
        file=path.name,
        num_bytes=len(raw),
        sha256=hashlib.sha256(raw).hexdigest(),
        num_hidden=stacker.num_hidden,
        strength=stacker.strength,
    )


def read_stacker(folder: Path, file: StackerFile, num_members: int, num_classes: int) -> Stacker:
    """The stacker of so many members and classes. Raises ValueError with the file, the rule and the remedy where it is
    missing, was changed or cut short, or does not hold finite numbers of these shapes."""
    path = folder / file.file
    remedy = "copy it again from its run, or run the ensemble stage again"
    raw = _bytes_of(path, file, remedy)
    sizes = [num_members * num_classes, *([file.num_hidden] if file.num_hidden else []), num_classes]
    shapes: dict[str, tuple[int, ...]] = {"fitted": (num_classes,)}
    for n in range(len(sizes) - 1):
        shapes |= {f"weight.{n}": (sizes[n + 1], sizes[n]), f"bias.{n}": (sizes[n + 1],)}
    try:
        tensors = load(raw)
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} must be a safetensors file, got none ({error}); {remedy}") from None
    got = {name: tensor.shape for name, tensor in tensors.items()}
    if got != shapes:
        raise ValueError(f"{path} must hold a stacker of the shapes {shapes}, got {got!s:.300}; {remedy}")
    fitted = tensors.pop("fitted")
    layers = tuple(tensors[f"{kind}.{n}"] for n in range(len(sizes) - 1) for kind in ("weight", "bias"))
    if fitted.dtype != np.uint8 or fitted.max() > 1 or not fitted.any():
        raise ValueError(f"{path} must say by 0 and 1 which classes were fitted, at least one, got others; {remedy}")
    if not all(layer.dtype == np.float32 and np.isfinite(layer).all() for layer in layers):
        raise ValueError(f"{path} must hold finite float32 numbers, got others; {remedy}")
    return Stacker(layers, fitted.astype(bool), file.strength)


def _bytes_of(path: Path, file: StackerFile, remedy: str) -> bytes:
    try:
        with path.open("rb") as opened:
            raw = opened.read(MAX_STACKER_BYTES + 1)
    except OSError as error:
        raise ValueError(f"{path} must be the rule's stacker, got no file ({error.strerror}); {remedy}") from None
    if len(raw) != file.num_bytes:
        what = "it was cut short" if len(raw) < file.num_bytes else "it has grown"
        raise ValueError(f"{path} must have {file.num_bytes} bytes, got {len(raw)}: {what}; {remedy}")
    digest = hashlib.sha256(raw).hexdigest()
    if digest != file.sha256:
        raise ValueError(
            f"{path} must have the SHA-256 {file.sha256[:12]}..., got {digest[:12]}...: it was changed; {remedy}"
        )
    return raw
