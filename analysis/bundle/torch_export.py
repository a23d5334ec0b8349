"""A network as a program of torch.export (.pt2), run in another process for the check.

torch.export.load unpickles, so a .pt2 from a stranger may run anything: this project loads none but the one that it has
just written.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch.export import Dim

from analysis.bundle.graphs import LEAST, Graph, Image, Logits, Sizes, sample

# timm's blocks that pad by the remainder of a side over a window. At free sizes the tracer simplifies terms of these
# remainders for ever (stopped after 4 minutes of a narrow Swin); at one size they are numbers.
WINDOWED = frozenset({"WindowAttention", "WindowMultiHeadAttention", "LocallyGroupedAttn"})
_RUN = """
import sys
import numpy as np
import torch
network = torch.export.load(sys.argv[1]).module()
images = np.load(sys.argv[2])
with torch.no_grad():
    found = {name: network(torch.from_numpy(images[name])).numpy() for name in images.files}
np.savez(sys.argv[3], **found)
"""


def write_torch_export(graph: Graph, path: Path, sizes: Sizes) -> None:
    """Write the graph as a program. Raises ValueError where torch.export cannot follow the network, or would not
    end (WINDOWED at free sizes)."""
    if sizes.fixed_px is None and (windowed := WINDOWED & {type(module).__name__ for module in graph.modules()}):
        raise ValueError(
            f"torch.export must prove what it is told of sizes, got {graph.backbone.name}, whose {min(windowed)} fills "
            "feature maps up to whole windows: that takes it many minutes; use --format onnx"
        )
    m = sizes.multiple_px
    free = {} if sizes.fixed_px else {2: m * Dim("rows", min=LEAST), 3: m * Dim("columns", min=LEAST)}
    shapes = {"image": {0: Dim("batch", min=1), **free}}
    try:
        with torch.no_grad():
            program = torch.export.export(graph, (sample(sizes),), dynamic_shapes=shapes)
    except Exception as error:  # torch's tracer raises its own kinds, and whatever a network's Python code does
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), "no reason given")
        raise ValueError(
            f"torch.export must follow the code of {graph.backbone.name}, got {type(error).__name__}: {reason:.200}; "
            "use --format bundle"
        ) from error
    torch.export.save(program, path)


def run_torch_export(path: Path, images: Sequence[Image]) -> list[Logits]:
    """The logits of each batch of images by a process that has torch and not this project.

    Raises ValueError where it fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        asked, found = Path(folder) / "images.npz", Path(folder) / "logits.npz"
        np.savez(asked, **{str(n): image for n, image in enumerate(images)})  # type: ignore[arg-type]
        command = [sys.executable, "-I", "-c", _RUN, str(path), str(asked), str(found)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
            raise ValueError(f"{path.name} must run in another process, got {reason:.300}; use --format bundle")
        with np.load(found) as logits:
            return [logits[str(n)] for n in range(len(images))]
