"""Finds out which image sizes a backbone can take.

Most models take any multiple of 32 px, to which the segmentor pads. Some cut the image into windows that must divide
it, or hold a table with an entry for each position of one size: those are found by trying, on the meta device.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

MULTIPLE_PX = 32
PROBE_PX = (96, 160)  # multiples of 32 that no model has as its own size
_UNITS_PX = (64, 96, 128, 160, 192, 224, 256, 288, 320, 384, 448, 512)


@dataclass(frozen=True)
class InputSizes:
    """Sides that are multiples of `multiple_px`, or one size `exact_px` (height, width) alone."""

    multiple_px: int = MULTIPLE_PX
    exact_px: tuple[int, int] | None = None

    def check(self, height_px: int, width_px: int, model: str) -> None:
        """Raise ValueError where an image of this size, padded to multiples of 32, is not one that `model` takes."""
        padded = tuple(side + -side % MULTIPLE_PX for side in (height_px, width_px))
        if self.exact_px is not None and padded != self.exact_px:
            raise ValueError(
                f"images must be {_px(self.exact_px)} for backbone {model!r}, which takes no other size, got "
                f"{height_px} x {width_px} px; crop and resize to it, without other scales, or use another backbone"
            )
        if self.exact_px is None and any(side % self.multiple_px for side in padded):
            near = sorted(
                {max(1, side // self.multiple_px + up) * self.multiple_px for side in padded for up in (0, 1)}
            )
            raise ValueError(
                f"sides of images must be multiples of {self.multiple_px} px for backbone {model!r}, got "
                f"{height_px} x {width_px} px; use {', '.join(map(str, near[:-1]))} or {near[-1]}"
            )


def find_sizes(try_pass: Callable[[int, int], None], native_px: tuple[int, int]) -> InputSizes:
    """The sizes at which `try_pass(height, width)` does not raise; what it raises at the model's own size if none."""
    if _works(try_pass, PROBE_PX):
        return InputSizes()
    for unit in _UNITS_PX:
        if native_px[0] % unit == 0 and native_px[1] % unit == 0 and _works(try_pass, (3 * unit, 5 * unit)):
            return InputSizes(multiple_px=unit)
    try_pass(*native_px)
    return InputSizes(exact_px=native_px)


def _works(try_pass: Callable[[int, int], None], size_px: tuple[int, int]) -> bool:
    try:
        try_pass(*size_px)
    except (AssertionError, AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError):
        return False  # timm's models refuse a size each in their own way
    return True


def _px(size_px: tuple[int, int]) -> str:
    return f"{size_px[0]} x {size_px[1]} px"
