"""What a view of a member costs: milliseconds an image, measured where its logits were made.

Enters: a segmentor, images, views and a clock. Leaves: cost.json beside the logits of val. It is no part of the logits
or their header: on the same machine the next measurement gives other digits, while everything that is decided from one
measurement is decided by it alone. An image is looked at by itself, as a product does, from its pixels to its logits;
trials that share a machine slow each other down, and so make each other dearer.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Literal

import torch

from analysis.candidates import Candidate
from analysis.predictor import load_model
from trainables.checkpoint import BEST_WEIGHTS, write_text
from trainables.data.cache import Cache
from trainables.infer import Amp, View, view_logits
from trainables.logits import LogitStore
from trainables.models.segmentor import Segmentor

COST_FILE = "cost.json"
NUM_IMAGES = 5
NUM_WARM_UPS = 1


@dataclass(frozen=True)
class Costs:
    """What each member's views cost an image. Where one was not measured, every view costs one view."""

    unit: Literal["ms", "views"]
    of: tuple[dict[str, float], ...]  # (M,) by view
    devices: tuple[str, ...]  # on which they were measured

    def in_order(self, names: Sequence[Sequence[str]]) -> list[list[float]]:
        return [[costs[view] for view in views] for costs, views in zip(self.of, names, strict=True)]

    def total(self, views: Sequence[Sequence[str]]) -> float:
        """Of an ensemble that looks through these views (M,) of its members."""
        return sum(costs[view] for costs, chosen in zip(self.of, views, strict=True) for view in chosen)

    @property
    def caveat(self) -> str | None:
        if len(self.devices) < 2:
            return None
        return f"milliseconds an image were measured on different devices: {', '.join(self.devices)}"


def measure_costs(
    candidate: Candidate,
    cache: Cache,
    ids: Sequence[str],
    views: Sequence[View],
    folder: Path,
    *,
    device: str,
    clock: Callable[[], float],  # seconds
) -> None:
    """Writes cost.json, medians a scale, into the folder of the candidate's logits; where it names all views already,
    it is kept."""
    if {view.name for view in views} <= read_ms(folder)[1].keys():
        return
    recipe = candidate.recipe
    model = load_model(recipe, cache.index.num_classes, candidate.checkpoint / BEST_WEIGHTS).to(device)
    by_scale: dict[float, list[float]] = {}  # a flip or a turn changes nothing: what differs between these is noise
    for view in views:
        by_scale.setdefault(view.scale, []).extend(
            measure_ms(
                model, cache, ids, view,
                short_px=recipe.augmentation.short_px, device=device, amp=recipe.train.amp, clock=clock,
            )
        )  # fmt: skip
    ms = {view.name: float(median(by_scale[view.scale])) for view in views}
    name = torch.cuda.get_device_name(device) if device.startswith("cuda") else device
    write_text(folder / COST_FILE, json.dumps({"device": name, "ms_an_image": ms}, indent=1))


def measure_ms(
    model: Segmentor,
    cache: Cache,
    ids: Sequence[str],
    view: View,
    *,
    short_px: int | None,
    device: str,
    amp: Amp,
    clock: Callable[[], float],  # seconds
) -> list[float]:
    """Of a few images, spread over `ids`, each by itself, after a warm-up."""
    some = list(ids[:: max(1, len(ids) // NUM_IMAGES)])[:NUM_IMAGES]
    taken = []
    for image_id in some[:NUM_WARM_UPS] + some:
        start = clock()
        for _ in view_logits(model, cache, [image_id], view, short_px=short_px, device=device, batch_size=1, amp=amp):
            pass  # the logits are on the host when they come: the device has finished
        taken.append(1000 * (clock() - start))
    return taken[NUM_WARM_UPS:]


def read_ms(folder: Path) -> tuple[str, dict[str, float]]:
    """The device, and milliseconds by view; empty where nothing was measured."""
    path = folder / COST_FILE
    if not path.is_file():
        return "", {}
    found = json.loads(path.read_text())
    return str(found["device"]), {str(view): float(ms) for view, ms in found["ms_an_image"].items()}


def costs_of(stores: Sequence[LogitStore], names: Sequence[Sequence[str]], budget_ms: float | None) -> Costs:
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
        return Costs("views", tuple(dict.fromkeys(views, 1.0) for views in names), ())
    known = tuple({view: ms[view] for view in views} for views, (_, ms) in zip(names, read, strict=True))
    return Costs("ms", known, tuple(sorted({device for device, _ in read})))
