"""One test-time view: scale, flip, turn, tile."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from trainables.logits.view_name import VIEW_NAME, tile_fault

Flip = Literal["none", "horizontal", "vertical"]
Turn = Literal[0, 90, 180, 270]  # degrees, anticlockwise
_FLIPPED_AXIS: dict[Flip, int | None] = {"none": None, "horizontal": -1, "vertical": -2}  # of (..,H,W)


@dataclass(frozen=True)
class Tile:
    """A square window of `px` on the resized image; neighbours overlap by a share of it (two decimals)."""

    px: int
    overlap: float = 0.25

    def __post_init__(self) -> None:
        fault = tile_fault(self.px, self.overlap)
        if fault is not None:
            raise ValueError(fault)

    @property
    def name(self) -> str:
        """'t512o25'."""
        return f"t{self.px}o{round(100 * self.overlap):02}"


@dataclass(frozen=True)
class View:
    """One way to present an image: resized by `scale` (two decimals), then turned, then flipped, then seen tile by
    tile, or whole."""

    scale: float = 1.0
    flip: Flip = "none"
    turn: Turn = 0
    tile: Tile | None = None

    def __post_init__(self) -> None:
        if not 0.01 <= self.scale <= 99.99 or round(self.scale, 2) != self.scale:
            raise ValueError(f"a view's scale must be 0.01 to 99.99 with two decimals, got {self.scale}; round it")
        if self.flip not in get_args(Flip):
            raise ValueError(f"a view's flip must be one of {', '.join(get_args(Flip))}, got {self.flip!r}")

        if self.turn not in get_args(Turn):
            raise ValueError(f"a view's turn must be 0, 90, 180 or 270 degrees, got {self.turn!r}")

    @property
    def name(self) -> str:
        """'s1.00-none', 's1.00-r90-none', 's1.00-t512o25-none'. No name begins with another's and a dash: shards are
        found by that."""
        tile = f"{self.tile.name}-" if self.tile else ""
        return f"s{self.scale:.2f}-{tile}" + (f"r{self.turn}-" if self.turn else "") + self.flip

    @property
    def pose(self) -> tuple[float, bool, int, Tile | None]:
        """Scale, whether mirrored, turn, and tile: equal for views that show one picture, as a vertical flip is a
        horizontal one turned by 180 degrees."""
        turn = self.turn + 180 * (self.flip == "vertical")
        return self.scale, self.flip != "none", turn % 360, self.tile

    @classmethod
    def parse(cls, name: str) -> View:
        """The view of a `name`. Raises ValueError for a name of no view."""
        found = re.fullmatch(VIEW_NAME, name)
        if found is None:
            raise ValueError(
                f"a view is named like 's1.25-horizontal', 's1.00-r90-none' or 's1.00-t512o25-none', got {name!r}"
            )
        scale, px, percent, turn, flip = found.groups()
        tile = Tile(int(px), int(percent) / 100) if px else None
        return cls(float(scale), flip, int(turn or 0), tile)  # type: ignore[arg-type]

    def apply(self, images: Tensor) -> Tensor:  # (..,H,W) -> (..,H,W), or (..,W,H) on its side
        """Turned and flipped."""
        axis = _FLIPPED_AXIS[self.flip]
        turned = torch.rot90(images, self.turn // 90, (-2, -1)) if self.turn else images
        return turned if axis is None else turned.flip(axis)

    def undo(self, logits: Tensor) -> Tensor:  # (..,h,w)
        """The inverse of `apply`."""
        axis = _FLIPPED_AXIS[self.flip]
        turned = logits if axis is None else logits.flip(axis)
        return torch.rot90(turned, -(self.turn // 90), (-2, -1)) if self.turn else turned
