"""Networks of a bundle as one graph each, for other runtimes: normalisation inside, batch and size free where the
backbone allows it; and the check that what was written computes the same.

A graph takes `image`, uint8 RGB (B,3,H,W), sides multiples of `Sizes.multiple_px` and two of them at least, and gives
`logits`, float32 (B,K,H/s,W/s) at the head's stride s.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from trainables.models.input_sizes import MULTIPLE_PX
from trainables.models.segmentor import Segmentor

Image = NDArray[np.uint8]  # (B,3,H,W) RGB
Logits = NDArray[np.float32]  # (B,K,h,w)
Runner = Callable[[Sequence[Image]], Sequence[Logits]]
LEAST = 2  # multiples per side: what export sees as 1 it would take for a size that broadcasts


@dataclass(frozen=True)
class Tolerance:
    """What a graph may differ by from the network that it was made of, over all images of the check."""

    difference: float  # of a logit
    agreement: float  # share of equal labels, on the logits' grid

    def __str__(self) -> str:
        return f"allowed {self.difference:g}, and {self.agreement:.1%} at least"


FLOAT32, FLOAT16 = Tolerance(1e-3, 0.999), Tolerance(0.1, 0.995)


@dataclass(frozen=True)
class Sizes:
    """Sides that a graph takes: multiples, or, where its backbone or the exporter allows no other, one size."""

    multiple_px: int
    fixed_px: tuple[int, int] | None = None  # (height, width)

    def checked(self, crop_px: int) -> list[tuple[int, int, int]]:
        """Three (batch, height, width) at which a graph is checked, the training crop's size among them."""
        if self.fixed_px is not None:
            return [(batch, *self.fixed_px) for batch in (1, 2, 3)]
        m = self.multiple_px
        crop = max(LEAST, round(crop_px / m)) * m
        return [(1, crop, crop), (2, crop + m, crop), (3, LEAST * m, (LEAST + 1) * m)]


class Graph(nn.Module):
    """A trained network with its normalisation, as it is exported: see the module."""

    mean: Tensor
    std: Tensor

    def __init__(self, network: Segmentor) -> None:
        super().__init__()
        self.backbone, self.head = network.backbone, _with_poolings_of_any_size(copy.deepcopy(network.head))
        for name, values in (("mean", network.mean), ("std", network.std)):
            self.register_buffer(name, torch.tensor(values).view(1, 3, 1, 1) * 255.0)
        self.eval()

    def forward(self, image: Tensor) -> Tensor:
        logits, _ = self.head(self.backbone((image.float() - self.mean) / self.std))
        result: Tensor = logits
        return result


class MatrixPool(nn.Module):
    """`nn.AdaptiveAvgPool2d(bins)` as two matrix products, since the operator itself is exported for sizes that the
    bins divide alone. Bin i of n over S pixels is floor(i S/n) to ceil((i+1) S/n)."""

    def __init__(self, bins: int) -> None:
        super().__init__()
        self.bins = bins

    def forward(self, x: Tensor) -> Tensor:  # (B,C,h,w) -> (B,C,bins,bins)
        pooled: Tensor = self._means(x, x.shape[2]) @ x @ self._means(x, x.shape[3]).transpose(0, 1)
        return pooled

    def _means(self, x: Tensor, size: int) -> Tensor:  # (bins, size)
        first = torch.arange(self.bins, device=x.device).unsqueeze(1)
        pixel = torch.arange(size, device=x.device).unsqueeze(0)
        # in whole numbers: pixel >= floor(i S/n) and pixel < ceil((i+1) S/n)
        inside = ((pixel + 1) * self.bins > first * size) & (pixel * self.bins < (first + 1) * size)
        share = inside.to(x.dtype)
        return share / share.sum(dim=1, keepdim=True)


def offered_sizes(network: Segmentor, crop_px: int) -> list[Sizes]:
    """The sizes to try, best first: free ones and, where a writer or its runtime cannot have them, the training
    crop's; of a backbone that takes one size, that one."""
    known = network.backbone.sizes
    if known.exact_px is not None:
        return [Sizes(known.multiple_px, known.exact_px)]
    side = max(1, round(crop_px / known.multiple_px)) * known.multiple_px
    return [Sizes(known.multiple_px), Sizes(known.multiple_px, (side, side))]


def sample(sizes: Sizes) -> Tensor:
    """An image to trace with, (2,3,H,W) uint8; a free size is none that another dimension has."""
    height, width = sizes.fixed_px or (3 * sizes.multiple_px, 5 * sizes.multiple_px)
    return torch.zeros(2, 3, height, width, dtype=torch.uint8)


@dataclass(frozen=True)
class Agreement:
    """How a graph compares with its network over some images."""

    difference: float  # the largest, of a logit
    agreement: float  # share of equal labels
    sizes: tuple[tuple[int, int, int], ...]  # (B,H,W) of the images

    def within(self, allowed: Tolerance) -> bool:
        return self.difference <= allowed.difference and self.agreement >= allowed.agreement  # False for NaN

    def __str__(self) -> str:
        sizes = ", ".join(f"{batch} x {height} x {width}" for batch, height, width in self.sizes)
        return (
            f"largest difference of a logit {self.difference:.2g}, {self.agreement:.3%} of labels equal, at {sizes} px"
        )


def compare(network: Segmentor, run: Runner, sizes: Sequence[tuple[int, int, int]]) -> Agreement:
    """Compare the logits of `run` with those of the network as validation runs it, on drawn images of sizes (B,H,W).

    Raises ValueError where they have another shape.
    """
    rng = np.random.default_rng(0)
    images = [_draw(rng, *size) for size in sizes]
    worst, equal, total = 0.0, 0, 0
    for image, found in zip(images, run(images), strict=True):
        expected = _logits(network, image)
        if found.shape != expected.shape:
            raise ValueError(f"a graph must give the logits' shape {expected.shape}, got {found.shape}")
        worst = float(np.maximum(worst, np.abs(found - expected).max()))  # a NaN stays one
        equal += int((found.argmax(axis=1) == expected.argmax(axis=1)).sum())
        total += expected.size // expected.shape[1]
    return Agreement(worst, equal / total, tuple(sizes))


def _logits(network: Segmentor, image: Image) -> Logits:
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) * 255.0 for v in (network.mean, network.std))
    with torch.no_grad():
        logits: Logits = network((torch.from_numpy(image).float() - mean) / std).numpy()
    return logits


def _draw(rng: np.random.Generator, batch: int, height: int, width: int) -> Image:
    """Blotches with fine noise: a photograph's spectrum, roughly. Sides divide by MULTIPLE_PX."""
    coarse = rng.integers(0, 224, (batch, 3, height // MULTIPLE_PX, width // MULTIPLE_PX))
    blotches = coarse.repeat(MULTIPLE_PX, axis=2).repeat(MULTIPLE_PX, axis=3)
    return (blotches + rng.integers(0, 32, blotches.shape)).astype(np.uint8)


def _with_poolings_of_any_size(head: nn.Module) -> nn.Module:
    for module in head.modules():
        for name, child in module.named_children():
            if isinstance(child, nn.AdaptiveAvgPool2d) and isinstance(child.output_size, int):
                setattr(module, name, MatrixPool(child.output_size))
    return head
