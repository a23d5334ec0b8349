"""The names of views, and the limits of tiles. Light to import, so that names can be checked without torch."""

from __future__ import annotations

# scale, tile's side in px and overlap in percent, turn in degrees, flip
VIEW_NAME = r"s(\d{1,2}\.\d\d)-(?:t(\d{2,4})o(\d\d)-)?(?:r(90|180|270)-)?(none|horizontal|vertical)"
TILE_STRIDE_PX = 32  # tiles begin and end where every network's coarsest features do
TILE_PX = 64, 8192
MAX_OVERLAP = 0.75


def tile_fault(px: int, overlap: float) -> str | None:
    """What is wrong with a tile, with the remedy; None where nothing is."""
    if not TILE_PX[0] <= px <= TILE_PX[1] or px % TILE_STRIDE_PX:
        nearest = min(max(round(px / TILE_STRIDE_PX) * TILE_STRIDE_PX, TILE_PX[0]), TILE_PX[1])
        return (
            f"a tile's side must be a multiple of {TILE_STRIDE_PX} px, the networks' coarsest stride, from "
            f"{TILE_PX[0]} to {TILE_PX[1]}, got {px}; use {nearest}"
        )
    if not 0 <= overlap <= MAX_OVERLAP or round(overlap, 2) != overlap:
        return (
            f"tiles must overlap by 0 to {MAX_OVERLAP} of their side, with two decimals, got {overlap}; use 0.25 or 0.5"
        )
    return None
