"""The one bilinear resize of feature maps and logits, as the models were trained with it."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional


def resize(maps: Tensor, size: Sequence[int]) -> Tensor:
    """(B,C,h,w) -> (B,C,*size), bilinear with align_corners=False, in the type that came in."""
    resized = functional.interpolate(maps, size=tuple(size), mode="bilinear", align_corners=False)
    return resized.to(maps.dtype)  # autocast on a GPU gives float32: twice the memory, for a convolution that rounds it


def upsample(logits: Tensor, stride: int, size: tuple[int, int]) -> Tensor:
    """logits (B,K,h,w) at `stride` -> (B,K,H,W) for `size` = (H,W).

    A grid that overhangs the image, because its size was padded to the stride, is upsampled by exactly `stride` and
    cropped, so that no pixel is shifted or stretched.
    """
    height, width = logits.shape[2] * stride, logits.shape[3] * stride
    if not (0 <= height - size[0] < stride and 0 <= width - size[1] < stride):
        raise ValueError(
            f"size must be within one stride under the grid, got {size} for logits "
            f"{tuple(logits.shape[2:])} at stride {stride}; resize to another size after upsampling"
        )
    return resize(logits, (height, width))[:, :, : size[0], : size[1]]
