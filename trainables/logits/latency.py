"""Measures what a view of a member costs, in milliseconds per image, on the machine that writes its logits.

The result is cost.json beside the logits of val. It is not part of the logits or their header: a second measurement on
the same machine gives other digits, and all decisions must use the same one. Images are run one at a time, as in
production, from pixels to logits; trials that share a machine slow each other down, and so measure higher costs.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median

import torch

from trainables.data.cache import Cache
from trainables.device import placed
from trainables.files import write_text
from trainables.logits.predict_views import Inference, view_logits
from trainables.logits.sources import ImageSource
from trainables.logits.view import Tile, View
from trainables.logits.write_logits import Candidate, Part
from trainables.models.load import load_network
from trainables.plain_json import read_object

COST_FILE = "cost.json"
NUM_IMAGES = 5
NUM_WARM_UPS = 1


def measure_costs(
    candidate: Candidate,
    cache: Cache,
    ids: Sequence[str],
    views: Sequence[View],
    folders: Mapping[Part, Path],
    *,
    device: str,
    clock: Callable[[], float],  # seconds
) -> None:
    """Write cost.json, one median per scale and tile: of what ships into the folder of the candidate's logits of val,
    of what else may ship into that of its logits of the hold-out. One that has all views already is kept."""
    networks: dict[Part, Sequence[Path]] = {"val": candidate.shipped_weights}
    if candidate.ships_refit:
        networks["holdout"] = candidate.weights
    elif candidate.refit:
        networks["refit"] = [candidate.refit_weights]
    for part, weights in networks.items():
        if {view.name for view in views} <= read_ms(folders[part])[1].keys():
            continue
        model = placed(load_network(candidate.recipe, cache.index.num_classes, weights), device)
        inference = Inference.of(candidate.recipe, model, device, batch_size=1)
        # a flip or a turn changes nothing: what differs between these is noise
        taken: dict[tuple[float, Tile | None], list[float]] = {}
        for view in views:
            taken.setdefault((view.scale, view.tile), []).extend(measure_ms(inference, cache, ids, view, clock))
        ms = {view.name: float(median(taken[view.scale, view.tile])) for view in views}
        name = torch.cuda.get_device_name(device) if device.startswith("cuda") else device
        write_text(folders[part] / COST_FILE, json.dumps({"device": name, "ms_an_image": ms}, indent=1))


def measure_ms(
    inference: Inference, images: ImageSource, ids: Sequence[str], view: View, clock: Callable[[], float]
) -> list[float]:
    """Times of a few images, spread over `ids`, one at a time, after a warm-up. `clock` gives seconds."""
    alone = replace(inference, batch_size=1)
    some = list(ids[:: max(1, len(ids) // NUM_IMAGES)])[:NUM_IMAGES]
    taken = []
    for image_id in some[:NUM_WARM_UPS] + some:
        start = clock()
        for _ in view_logits(alone, images, [image_id], view):
            pass  # the logits are on the host when they come: the device has finished
        taken.append(1000 * (clock() - start))
    return taken[NUM_WARM_UPS:]


def read_ms(folder: Path) -> tuple[str, dict[str, float]]:
    """The device, and milliseconds per image by view; empty where nothing was measured."""
    path = folder / COST_FILE
    if not path.is_file():
        return "", {}
    remedy = "delete it: costs are then counted in views"
    found = read_object(path, remedy)
    try:
        return str(found["device"]), {str(view): float(ms) for view, ms in found["ms_an_image"].items()}
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise ValueError(
            f"{path} must have a device, and ms_an_image by view, got {type(error).__name__}: {error}; {remedy}"
        ) from error
