"""The trials that may enter the ensemble, and their logits.

Enters: scored trials with checkpoints. Leaves: for each candidate, every test-time view of val and hold-out as a
`LogitStore` (raw logits at the head's own stride, float16). Labels are not read here.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from analysis.predictor import load_model
from trainables.checkpoint import BEST_WEIGHTS, fingerprint
from trainables.data.cache import Cache
from trainables.data.index import Split
from trainables.data.transforms import view_size
from trainables.infer import View, view_logits
from trainables.logits import LogitHeader, LogitStore, LogitWriter, forecast_bytes
from trainables.models.segmentor import build_segmentor
from trainables.recipe import Recipe

SPARE_BYTES = 256 * 2**20  # what a run still writes after its logits: bundle, report, study
SPLITS: tuple[Literal["val", "holdout"], ...] = ("val", "holdout")


@dataclass(frozen=True)
class Candidate:
    """A trial that may enter the ensemble."""

    trial: str
    recipe: Recipe
    checkpoint: Path  # the folder that holds best.safetensors
    miou: float  # of its best epoch on val
    ingredients: tuple[str, ...] = ()  # of a soup: "00003 epoch 8"


def choose(trials: Sequence[Candidate], *, limit: int, max_per_family: int) -> list[Candidate]:
    """The best `limit` trials, best first, at most `max_per_family` of one backbone family."""
    taken: list[Candidate] = []
    families: Counter[str] = Counter()
    for candidate in sorted(trials, key=lambda c: (-c.miou, c.trial)):
        if len(taken) < limit and families[candidate.recipe.family] < max_per_family:
            taken.append(candidate)
            families[candidate.recipe.family] += 1
    return taken


def check_space(
    candidates: Sequence[Candidate], cache: Cache, split: Split, views: Sequence[View], folder: Path
) -> tuple[int, int]:
    """Forecast of the bytes that all logits will take, and the bytes free under `folder`.

    Raises ValueError where they do not fit, before the first one is written.
    """
    needed = sum(_forecast(candidate, cache, split, views) for candidate in candidates)
    free = shutil.disk_usage(folder).free
    if needed + SPARE_BYTES > free:
        raise ValueError(
            f"the logits of {len(candidates)} candidates x {len(views)} views need {needed / 2**20:.0f} MiB under "
            f"{folder}, which has {free / 2**20:.0f} MiB free; free some, or lower ensemble.candidates or the views "
            "of tta, and resume"
        )
    return needed, free


def write_logits(
    candidate: Candidate,
    cache: Cache,
    split: Split,
    views: Sequence[View],
    folders: Mapping[str, Path],  # "val", "holdout" -> folder
    *,
    device: str,
    say: Callable[[str], None],
) -> None:
    """Write what is missing of one candidate's logits. A view that is complete is kept.

    Raises ValueError where the checkpoint was cut short or the logits are not finite.
    """
    weights = candidate.checkpoint / BEST_WEIGHTS
    model = None
    for part in SPLITS:
        ids = ids_of(split, part)
        for view in views:
            header = _header(candidate, cache, split, part, view, stride=0, weights=weights)
            if is_complete(folders[part], header, ids):
                continue
            if model is None:
                model = load_model(candidate.recipe, cache.index.num_classes, weights).to(device)
            header = _header(candidate, cache, split, part, view, stride=model.stride, weights=weights)
            with LogitWriter(folders[part], header) as writer:
                for image_id, logits in view_logits(
                    model,
                    cache,
                    ids,
                    view,
                    short_px=candidate.recipe.augmentation.short_px,
                    device=device,
                    batch_size=candidate.recipe.train.batch_size,
                    amp=candidate.recipe.train.amp,
                ):
                    writer.add(image_id, logits, cache.size(image_id))
            say(f"logits of trial {candidate.trial}: {part} {view.name}")


def ids_of(split: Split, part: Literal["val", "holdout"]) -> tuple[str, ...]:
    return split.val_ids if part == "val" else split.holdout_ids


def is_complete(folder: Path, header: LogitHeader, ids: Sequence[str]) -> bool:
    """Whether the view is there with every image, written from the same checkpoint, data and split."""
    if not any(folder.glob(f"{header.view}-*.safetensors")):
        return False
    try:
        store = LogitStore(folder)
    except ValueError:
        # a shard that was cut short, or of an earlier checkpoint: the view is written again
        shutil.rmtree(folder)
        return False
    found = store.header
    same = all(
        getattr(found, name) == getattr(header, name)
        for name in ("checkpoint_fingerprint", "data_fingerprint", "split_fingerprint", "recipe_hash", "classes")
    )
    if not same:
        shutil.rmtree(folder)
        return False
    return store.has(header.view, ids)


def _header(
    candidate: Candidate,
    cache: Cache,
    split: Split,
    part: Literal["val", "holdout"],
    view: View,
    *,
    stride: int,
    weights: Path,
) -> LogitHeader:
    return LogitHeader(
        trial=candidate.trial,
        recipe_hash=candidate.recipe.hash,
        family=candidate.recipe.family,
        split=part,
        view=view.name,
        classes=cache.index.classes,
        stride=stride,
        data_fingerprint=cache.index.fingerprint,
        split_fingerprint=split.fingerprint,
        checkpoint_fingerprint=fingerprint(weights),
    )


def _forecast(candidate: Candidate, cache: Cache, split: Split, views: Sequence[View]) -> int:
    with torch.device("meta"):
        stride = build_segmentor(candidate.recipe, cache.index.num_classes, pretrained=False).stride
    sizes = Counter(cache.size(image_id) for part in SPLITS for image_id in ids_of(split, part))
    total = 0
    for (height, width), count in sizes.items():
        grids = [
            (h // stride, w // stride)
            for h, w in (view_size(height, width, candidate.recipe.augmentation.short_px, v.scale) for v in views)
        ]
        total += forecast_bytes(count, cache.index.num_classes, grids)
    return total
