"""The inference cost of each member and view, read from cost.json."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from trainables.logits.latency import COST_FILE, read_ms
from trainables.logits.store import LogitStore


@dataclass(frozen=True)
class InferenceCosts:
    """What each member's views cost an image. Where one was not measured, every view costs one view."""

    unit: Literal["ms", "views"]
    of: tuple[dict[str, float], ...]  # (M,) by view
    devices: tuple[str, ...]  # on which they were measured

    def in_order(self, names: Sequence[Sequence[str]]) -> list[list[float]]:
        return [[costs[view] for view in views] for costs, views in zip(self.of, names, strict=True)]

    def deciding(self, budget_ms: float | None) -> InferenceCosts:
        """The costs by which views are chosen: one per view without a budget, so that no measured time decides."""
        if budget_ms is not None:
            return self
        return InferenceCosts("views", tuple(dict.fromkeys(costs, 1.0) for costs in self.of), ())

    def total(self, views: Sequence[Sequence[str]]) -> float:
        """Of an ensemble that looks through these views (M,) of its members."""
        return sum(costs[view] for costs, chosen in zip(self.of, views, strict=True) for view in chosen)

    @property
    def caveat(self) -> str | None:
        if len(self.devices) < 2:
            return None
        return f"milliseconds per image were measured on different devices: {', '.join(self.devices)}"


def costs_of(stores: Sequence[LogitStore], names: Sequence[Sequence[str]], budget_ms: float | None) -> InferenceCosts:
    """The costs of each member's views `names`. Raises ValueError where a budget is set and one was not measured."""
    read = [read_ms(store.folder) for store in stores]
    missing = [
        f"view {view} of {store.folder}"
        for store, views, (_, ms) in zip(stores, names, read, strict=True)
        for view in views
        if view not in ms
    ]
    if missing and budget_ms is not None:
        raise ValueError(
            f"latency_budget_ms needs what every view costs, got {budget_ms:g} ms, and no {COST_FILE} that names "
            f"{missing[0]} ({len(missing)} in all); run the logits stage again, which measures them, or set no budget"
        )
    if missing:
        return InferenceCosts("views", tuple(dict.fromkeys(views, 1.0) for views in names), ())
    known = tuple({view: ms[view] for view in views} for views, (_, ms) in zip(names, read, strict=True))
    return InferenceCosts("ms", known, tuple(sorted({device for device, _ in read})))
