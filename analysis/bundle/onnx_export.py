"""A network as an ONNX file, run by onnxruntime for the check. The packages are the optional extra `onnx`.

Written by torch's TorchScript exporter, which took 0.5 s of CPU time for a small network: the newer one, over
torch.export, proves what it is told of sizes, and was stopped unfinished after some 15 s. What comes out is checked by
running it anyway.
"""

from __future__ import annotations

import contextlib
import io
import re
import warnings
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path

import torch

from analysis.bundle.graphs import Graph, Image, Logits, Sizes, sample

PACKAGES = ("onnx", "onnxruntime")
OPSET = 17  # the newest that this exporter writes without a note
MAX_GIB = 1.9  # of weights: an ONNX file is one protobuf message, which has 2 GiB at most
NOT_LIKE_THIS = "use --format torch_export"


def check_packages() -> None:
    """Raises ValueError, with the command that installs them, where packages are missing."""
    missing = [name for name in PACKAGES if find_spec(name) is None]
    if missing:
        raise ValueError(
            f"--format onnx needs the packages {', '.join(PACKAGES)}, got no {', '.join(missing)}; install them: "
            f"pip install {' '.join(PACKAGES)}"
        )


def write_onnx(graph: Graph, path: Path, sizes: Sizes) -> None:
    """Write the graph as ONNX, with input `image` and output `logits`. Raises ValueError for an operator that ONNX
    lacks, and weights beyond what one file holds."""
    gib = sum(tensor.nbytes for tensor in graph.state_dict().values()) / 2**30
    if gib > MAX_GIB:
        raise ValueError(
            f"an ONNX file must have at most {MAX_GIB} GiB of weights, got {gib:.1f} GiB in {graph.backbone.name}; "
            f"{NOT_LIKE_THIS}"
        )
    free = {0: "batch"} | ({} if sizes.fixed_px else {2: "height", 3: "width"})
    at_stride = {axis: name if axis == 0 else f"{name}_at_stride" for axis, name in free.items()}
    try:
        with torch.no_grad(), _traceable():
            torch.onnx.export(
                graph,
                (sample(sizes),),
                str(path),
                dynamo=False,
                opset_version=OPSET,
                input_names=["image"],
                output_names=["logits"],
                dynamic_axes={"image": free, "logits": at_stride},
            )
    except (torch.onnx.OnnxExporterError, RuntimeError) as error:
        raise ValueError(
            f"ONNX must have every operator of a network, got {_operator(error)} with {graph.backbone.name}, which it "
            f"lacks; {NOT_LIKE_THIS}"
        ) from error


def write_half(graph: Graph, path: Path, sizes: Sizes) -> None:
    """`write_onnx` with weights and arithmetic in half precision; input and output stay as they are."""
    write_onnx(graph, path, sizes)
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16

    onnx.save(convert_float_to_float16(onnx.load(path), keep_io_types=True), path)


def run_onnx(path: Path, images: Sequence[Image]) -> list[Logits]:
    """The logits of each batch of images by onnxruntime, on the CPU. Raises ValueError where it fails."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what goes wrong is raised as well
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        return [session.run(["logits"], {"image": image})[0] for image in images]
    except Exception as error:  # its errors have no common class of their own
        raise ValueError(f"{path.name} must run in onnxruntime, got {error!s:.300}; {NOT_LIKE_THIS}") from error


def _operator(error: BaseException) -> str:
    found = re.search(r"operator '([^']+)'", str(error))
    return found[1] if found else f"one of them ({(str(error).splitlines() or [type(error).__name__])[0]:.200})"


@contextlib.contextmanager
def _traceable() -> Iterator[None]:
    """Attention by plain operators, not by torch's fused one, which ONNX lacks; and without the exporter's own notes,
    such as that sizes were compared: running it at other sizes shows whether that mattered."""
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
