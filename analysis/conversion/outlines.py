"""Rectangles and ellipses as polygons [x, y, x, y, ...] in px."""

from __future__ import annotations

import math

SAGITTA_PX = 0.02  # how far the polygon may lie inside the curve
MAX_POINTS = 4096


def rectangle(left: float, top: float, right: float, bottom: float, turn_deg: float = 0.0) -> list[float]:
    """A rectangle, turned clockwise (y points down) about its centre."""
    corners = [(left, top), (right, top), (right, bottom), (left, bottom)]
    return _turned(corners, ((left + right) / 2, (top + bottom) / 2), turn_deg)


def ellipse(x: float, y: float, radius_x: float, radius_y: float, turn_deg: float = 0.0) -> list[float]:
    """An ellipse about (x, y), turned clockwise about its centre. Raises ValueError where a radius is not above 0."""
    radius = max(radius_x, radius_y)
    if min(radius_x, radius_y) <= 0 or not math.isfinite(radius):
        raise ValueError(f"a radius must be above 0, got {radius_x:g} and {radius_y:g}")
    step = 2 * math.acos(max(0.0, 1 - SAGITTA_PX / radius))
    num = min(MAX_POINTS, max(8, math.ceil(2 * math.pi / step))) if step > 0 else MAX_POINTS
    angles = [2 * math.pi * n / num for n in range(num)]
    points = [(x + radius_x * math.cos(angle), y + radius_y * math.sin(angle)) for angle in angles]
    return _turned(points, (x, y), turn_deg)


def _turned(points: list[tuple[float, float]], centre: tuple[float, float], turn_deg: float) -> list[float]:
    sine, cosine = math.sin(math.radians(turn_deg)), math.cos(math.radians(turn_deg))
    flat: list[float] = []
    for x, y in points if turn_deg else ():
        right, down = x - centre[0], y - centre[1]
        flat += [centre[0] + right * cosine - down * sine, centre[1] + right * sine + down * cosine]
    return flat or [value for point in points for value in point]
