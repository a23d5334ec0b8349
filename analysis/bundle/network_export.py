"""Exports the networks of a bundle as ONNX or torch.export files, one each, with networks.json beside them, which says
how they vote. Every file is checked against its network; the folder appears only where all of them hold."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from analysis.bundle import onnx_export
from analysis.bundle.export import replace_folder
from analysis.bundle.graphs import (
    FLOAT16,
    FLOAT32,
    Agreement,
    Graph,
    Image,
    Logits,
    Sizes,
    Tolerance,
    compare,
    offered_sizes,
)
from analysis.bundle.manifest import Bundle, Member, sha256_of
from analysis.bundle.onnx_export import run_onnx, write_half, write_onnx
from analysis.bundle.torch_export import run_torch_export, write_torch_export
from trainables.files import write_text
from trainables.models.load import load_model
from trainables.models.segmentor import Segmentor

GraphFormat = Literal["onnx", "torch_export"]
FORMAT = "segsearch-networks/1"
INDEX = "networks.json"
OWN_FILES = re.compile(r"networks\.json|member-\d+(-[\w-]+)?\.(onnx|onnx\.data|pt2)|stacker\.safetensors")
INPUT = {"name": "image", "type": "uint8", "shape": ["B", 3, "H", "W"], "channels": "RGB, 0 to 255, not normalised"}
OUTPUT = {"name": "logits", "type": "float32", "shape": ["B", "K", "H/stride", "W/stride"]}


@dataclass(frozen=True)
class GraphWriter:
    """One format: how a graph is written and run, and what may be lost."""

    suffix: str
    other_format: str  # what works where this one does not
    write: Callable[[Graph, Path, Sizes], None]
    run: Callable[[Path, Sequence[Image]], list[Logits]]
    allowed: Tolerance = FLOAT32


WRITERS = {
    "onnx": GraphWriter(".onnx", "torch_export", write_onnx, run_onnx),
    "torch_export": GraphWriter(".pt2", "bundle", write_torch_export, run_torch_export),
}
HALF = GraphWriter(".onnx", "onnx without --fp16", write_half, run_onnx, FLOAT16)


def check_format(file_format: str, *, fp16: bool) -> None:
    """Raises ValueError for half precision in another format than ONNX, and where ONNX's packages are missing."""
    if fp16 and file_format != "onnx":
        raise ValueError(f"--fp16 must go with --format onnx, got --format {file_format}; leave --fp16 out")
    if file_format == "onnx":
        onnx_export.check_packages()


def foreign_to_networks(folder: Path) -> list[str]:
    """What lies at `folder` that is no file of such an export, sorted; its own name where it is no folder."""
    if not folder.is_dir():
        return [folder.name]
    return sorted(path.name for path in folder.iterdir() if not OWN_FILES.fullmatch(path.name))


def export_networks(bundle: Bundle, out: Path, file_format: GraphFormat, *, fp16: bool = False) -> list[str]:
    """Write the folder `out`, an older one is replaced; returns a line per network with what the check found.

    Raises ValueError where a network cannot be written in this format, or differs by more than is allowed.
    """
    check_format(file_format, fp16=fp16)
    writer, said, members = HALF if fp16 else WRITERS[file_format], [], []
    folder = out.with_name(f".{out.name}.tmp")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        for member in bundle.manifest.members:
            networks = []
            for weights in bundle.weights_paths(member):
                about, line = _export_network(bundle, member, weights, folder, writer)
                networks.append(about)
                said.append(line)
            members.append(_describe(member) | {"networks": networks})
        for path in _beside_weights(bundle):
            shutil.copyfile(path, folder / path.name)
        index = _index(bundle, file_format, members, fp16=fp16)
        write_text(folder / INDEX, json.dumps(index, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
        replace_folder(folder, out)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return said


def _beside_weights(bundle: Bundle) -> list[Path]:
    """What a rule needs beyond its members: the tensors of a stacker."""
    weights = {path for member in bundle.manifest.members for path in bundle.weights_paths(member)}
    return sorted(set(bundle.folder.glob("*.safetensors")) - weights)


def _export_network(
    bundle: Bundle, member: Member, weights: Path, folder: Path, writer: GraphWriter
) -> tuple[dict[str, Any], str]:
    network = load_model(member.recipe, len(bundle.manifest.classes), weights)
    network.mean, network.std = member.mean, member.std
    path = folder / f"{weights.stem}{writer.suffix}"
    sizes, found, failed = _write_checked(network, member.recipe.augmentation.crop_px, path, writer)
    about = {
        "file": path.name,
        "num_bytes": path.stat().st_size,
        "sha256": sha256_of(path),
        "stride": network.stride,
        "side_multiple_px": sizes.multiple_px,
        "fixed_size_px": sizes.fixed_px,  # (height, width)
        "largest_difference": found.difference,
        "label_agreement": found.agreement,
    }
    return about, f"{path.name}: {found} ({writer.allowed}){_why_fixed(sizes, failed)}"


def _write_checked(network: Segmentor, crop_px: int, path: Path, writer: GraphWriter) -> tuple[Sizes, Agreement, str]:
    """Write the graph at the freest size at which it computes what the network does; with why freer ones failed.
    Raises ValueError where it does at none."""
    graph, failed = Graph(network), ""
    for sizes in offered_sizes(network, crop_px):
        try:
            writer.write(graph, path, sizes)
            found = compare(network, lambda images: writer.run(path, images), sizes.checked(crop_px))
        except ValueError as error:
            failed = str(error)
            continue
        if found.within(writer.allowed):
            return sizes, found, failed
        failed = (
            f"{path.name} must give the logits of its network ({writer.allowed}), got a {found}; the file is removed: "
            f"use --format {writer.other_format}"
        )
    raise ValueError(failed)


def _why_fixed(sizes: Sizes, failed: str) -> str:
    if sizes.fixed_px is None:
        return ""
    why = f"for others: {failed}" if failed else "its backbone takes no other"
    return f"; at {sizes.fixed_px[0]} x {sizes.fixed_px[1]} px alone ({why})"


def _describe(member: Member) -> dict[str, Any]:
    kept = ("trial", "mean", "std", "views", "short_px", "temperature")
    backbone, head = member.recipe.backbone.name, member.recipe.head.name
    return {**{key: getattr(member, key) for key in kept}, "backbone": backbone, "head": head}


def _index(bundle: Bundle, file_format: GraphFormat, members: list[dict[str, Any]], *, fp16: bool) -> dict[str, Any]:
    """The bundle's manifest, with files of networks in place of weights."""
    manifest = bundle.manifest.model_dump(mode="json")
    packages = onnx_export.PACKAGES if file_format == "onnx" else ()
    return {
        **manifest,
        "format": FORMAT,
        "file_format": file_format,
        "precision": "float16" if fp16 else "float32",
        "normalisation": "inside: (image / 255 - mean) / std, with the mean and std of each member",
        "input": INPUT,
        "output": OUTPUT,
        "versions": manifest["versions"] | {name: version(name) for name in packages},
        "members": members,
    }
