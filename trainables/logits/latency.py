"""What a view of a member costs: milliseconds an image, measured where its logits were made.

Enters: a segmentor, images, views and a clock. Leaves: cost.json beside the logits of val. It is no part of the logits
or their header: on the same machine the next measurement gives other digits, while everything that is decided from one
measurement is decided by it alone. An image is looked at by itself, as a product does, from its pixels to its logits;
trials that share a machine slow each other down, and so make each other dearer.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

import torch

from trainables.data.cache import Cache
from trainables.files import write_text
from trainables.logits.predict_views import Amp, view_logits
from trainables.logits.view import View
from trainables.logits.write_logits import Candidate
from trainables.models.load import load_model
from trainables.models.segmentor import Segmentor
from trainables.models.weights_file import BEST_WEIGHTS

COST_FILE = "cost.json"
NUM_IMAGES = 5
NUM_WARM_UPS = 1


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
