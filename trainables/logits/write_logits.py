"""Writes the logits of the trials that may enter the ensemble.

Every test-time view of val and hold-out becomes a `LogitStore` per candidate (raw logits at the head's own stride,
float16 or in 8 bits). Labels are read only where 8 bits are asked for, and only those of val: what the rounding
changes is measured before the view is kept.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from trainables.data.augment.pipeline import view_size
from trainables.data.cache import Cache
from trainables.data.index import SegIndex, Split
from trainables.device import placed
from trainables.logits.lineage import FoldModel, Lineage, trained_on, write_lineage
from trainables.logits.predict_views import Inference, at_label_size, view_logits
from trainables.logits.quantise import decode, encode
from trainables.logits.shard_format import Dtype, LogitHeader
from trainables.logits.store import LogitStore, LogitWriter, forecast_bytes
from trainables.logits.view import View
from trainables.metrics import confusion_torch, miou
from trainables.models.load import load_network
from trainables.models.probability_mean import Network, ProbabilityMean
from trainables.models.segmentor import build_segmentor
from trainables.models.weights_file import BEST_WEIGHTS, REFIT_WEIGHTS, fingerprint, fold_weights
from trainables.recipe.recipe import Recipe

SPARE_BYTES = 256 * 2**20  # what a run still writes after its logits: bundle, report, study
Part = Literal["val", "holdout", "refit"]  # a folder of logits; refit: of the hold-out, by a recipe's refit
Passes = Mapping[Part, Sequence[tuple[Inference, Sequence[str]]]]  # what is predicted by what


@dataclass(frozen=True)
class Candidate:
    """A trial that may enter the ensemble."""

    trial: str
    recipe: Recipe
    checkpoint: Path  # the folder that holds best.safetensors, or a file of weights per fold
    miou: float  # of its best epoch on val
    ingredients: tuple[str, ...] = ()  # of a soup: "00003 epoch 8"; of the mean of fold models: "00003 fold 0"
    folds: tuple[tuple[str, ...], ...] = ()  # of the mean of fold models: the images that each of them never saw
    refit: bool = False  # of the mean of fold models: whether there is a model that was trained on all of them
    ships_refit: bool = False  # in place of the mean

    @property
    def weights(self) -> tuple[Path, ...]:
        """The files of its weights, one per network. A JSON file of the same stem describes each."""
        names = [fold_weights(fold) for fold in range(len(self.folds))] or [BEST_WEIGHTS]
        return tuple(self.checkpoint / name for name in names)

    @property
    def refit_weights(self) -> Path:
        return self.checkpoint / REFIT_WEIGHTS

    @property
    def shipped_weights(self) -> tuple[Path, ...]:
        return (self.refit_weights,) if self.ships_refit else self.weights

    @property
    def files(self) -> tuple[Path, ...]:
        """All that a task reads of it."""
        weights = (*self.weights, *([self.refit_weights] if self.refit else []))
        return (*weights, *(path.with_suffix(".json") for path in weights))

    @property
    def parts(self) -> tuple[Part, ...]:
        """The folders of its logits; val first: it decides whether 8 bits will do."""
        return ("val", "holdout", "refit") if self.refit else ("val", "holdout")


@dataclass(frozen=True)
class Storage:
    """Format and quota of stored logits."""

    dtype: Dtype = "float16"
    max_error: float = 0.001  # of a view's mIoU on val by 8 bits; a view with more is kept as float16
    quota_gb: float | None = None  # GiB of all candidates together; None: what is free


FLOAT16 = Storage()


def check_space(
    candidates: Sequence[Candidate],
    cache: Cache,
    split: Split,
    views: Sequence[View],
    run_folder: Path,
    folders: Sequence[
        Mapping[Part, Path]
    ] = (),  # one per candidate; logits that are there already need no further room
    storage: Storage = FLOAT16,
) -> tuple[int, int]:
    """Forecast of the bytes that all logits will take, and the bytes free under `run_folder`.

    Raises ValueError where they do not fit the disk or the quota, before the first one is written. In 8 bits, a view
    that has to be kept as float16 takes twice its forecast.
    """
    needed = sum(_forecast(candidate, cache, split, views, storage.dtype) for candidate in candidates)
    places = [place for each in folders for place in each.values()]
    written = sum(path.stat().st_size for place in places for path in place.glob("*.safetensors"))
    free = shutil.disk_usage(run_folder).free
    smaller = "" if storage.dtype == "uint8" else "set ensemble.logits to uint8, "
    what = f"the logits of {len(candidates)} candidates x {len(views)} views need {needed / 2**20:.0f} MiB"
    remedy = f"{smaller}lower ensemble.candidates or the views of tta"
    if storage.quota_gb is not None and needed > storage.quota_gb * 2**30:
        raise ValueError(
            f"{what}, and ensemble.logits_gb allows {storage.quota_gb * 2**10:.0f} MiB; raise it, {remedy}"
        )
    if max(needed - written, 0) + SPARE_BYTES > free:
        raise ValueError(
            f"{what} under {run_folder}, which has {free / 2**20:.0f} MiB free; free some, {remedy}, and resume"
        )
    return needed, free


def write_logits(
    candidate: Candidate,
    cache: Cache,
    split: Split,
    views: Sequence[View],
    folders: Mapping[Part, Path],
    storage: Storage = FLOAT16,
    *,
    device: str,
) -> list[str]:
    """Write the missing views of one candidate's logits. A view that is complete is kept.

    Of a candidate with folds, each image of val is predicted by the model that never saw it, and the hold-out by the
    mean of all of them, and apart from it by the refit. Returns the mIoU that 8 bits change on val, one line per view.
    Raises ValueError where the checkpoint was cut short, a model was trained on what it shall predict, or the logits
    are not finite.
    """
    lineage = _lineage_of(candidate, split)
    checkpoint = lineage.fingerprint if lineage else fingerprint(candidate.weights[0])
    first = _header(candidate, cache, split, checkpoint)
    passes: Passes | None = None
    lines: list[str] = []
    for view in views:
        dtype = storage.dtype
        for part in candidate.parts:
            header = replace(first, split="val" if part == "val" else "holdout", view=view.name, dtype=dtype)
            kept = kept_as(folders[part], header, ids_of(split, part))
            if kept is None:
                if passes is None:
                    passes = _passes_of(candidate, cache.index, split, device)
                if lineage:
                    write_lineage(folders[part], lineage)
                header = replace(header, stride=passes[part][0][0].model.stride)
                kept, found = _write_view(passes[part], cache, header, folders[part], storage.max_error)
                lines += found
            dtype = kept
    return lines


def _lineage_of(candidate: Candidate, split: Split) -> Lineage | None:
    """What each fold's model was trained on, as it was written down then, and what it shall predict; None of a
    candidate that is one model. Raises ValueError where a model was trained on what it shall predict."""
    if not candidate.folds:
        return None
    predicts = dict(zip(candidate.weights, candidate.folds, strict=True))
    if candidate.refit:
        predicts[candidate.refit_weights] = ()
    models = [
        FoldModel(weights=fingerprint(path), train_ids=trained_on(path), predicts=ids) for path, ids in predicts.items()
    ]
    lineage = Lineage(models=tuple(models))
    lineage.check("val", split.val_ids, candidate.checkpoint)
    lineage.check("holdout", split.holdout_ids, candidate.checkpoint)
    return lineage


def _passes_of(candidate: Candidate, index: SegIndex, split: Split, device: str) -> Passes:
    """One pass over val and one over the hold-out; with folds, a pass over val per model, and one over the hold-out by
    the refit."""
    recipe = candidate.recipe

    def inference(network: Network) -> Inference:
        return Inference.of(recipe, placed(network, device), device, recipe.train.batch_size, index.flip_pairs)

    network = load_network(recipe, index.num_classes, candidate.weights)
    whole = inference(network)
    val = [(whole, split.val_ids)]
    if isinstance(network, ProbabilityMean):
        of_folds = zip(network.networks, candidate.folds, strict=True)
        val = [(inference(one), ids) for one, ids in of_folds]
    passes: dict[Part, Sequence[tuple[Inference, Sequence[str]]]] = {
        "val": val,
        "holdout": [(whole, split.holdout_ids)],
    }
    if candidate.refit:
        refit = load_network(recipe, index.num_classes, [candidate.refit_weights])
        passes["refit"] = [(inference(refit), split.holdout_ids)]
    return passes


def _write_view(
    passes: Sequence[tuple[Inference, Sequence[str]]], cache: Cache, header: LogitHeader, folder: Path, max_error: float
) -> tuple[Dtype, list[str]]:
    """Returns the type that was kept in the end, and of val in 8 bits a line with the mIoU that it changes.

    Beyond `max_error` the view is predicted again and kept as float16.
    """
    device = passes[0][0].device
    counts = torch.zeros((2, len(header.classes), len(header.classes)), dtype=torch.int64, device=device)
    measured = header.dtype == "uint8" and header.split == "val"
    with LogitWriter(folder, header) as writer:
        for inference, ids in passes:
            for image_id, logits in view_logits(inference, cache, ids, View.parse(header.view)):
                writer.add(image_id, logits, cache.size(image_id))
                if measured:
                    counts += _counts_before_and_after(logits, cache.label(image_id), device)
    if not measured:
        return header.dtype, []
    before, after = miou(counts.cpu().numpy())
    change = f"8-bit logits of trial {header.trial}, {header.view}: mIoU {after - before:+z.4f} on val"
    if abs(after - before) <= max_error:
        return header.dtype, [change]
    kept, _ = _write_view(passes, cache, replace(header, dtype="float16"), folder, max_error)
    warning = f"warning: {change}, more than ensemble.max_logit_error {max_error:g}: the view is kept as float16"
    return kept, [warning]


def _counts_before_and_after(
    logits: NDArray[np.float16], label: NDArray[np.uint8], device: str
) -> torch.Tensor:  # (K,h,w), (H,W) -> (2,K,K): of the labels by the logits, and by what 8 bits keep of them
    both = np.stack([logits.astype(np.float32), decode(*encode(logits))])
    labels = at_label_size(torch.from_numpy(both).to(device), label.shape).argmax(1)  # (2,H,W)
    truth = torch.tensor(label, device=device)
    return torch.stack([confusion_torch(truth, predicted, len(logits)) for predicted in labels])


def ids_of(split: Split, part: Part) -> tuple[str, ...]:
    return split.val_ids if part == "val" else split.holdout_ids


def kept_as(folder: Path, header: LogitHeader, ids: Sequence[str]) -> Dtype | None:
    """The type of the stored view, if it has every image, was written from the same checkpoint, data and split, and
    has at least as many bits as the header says; else None."""
    if not any(folder.glob(f"{header.view}-*.safetensors")):
        return None
    try:
        store = LogitStore(folder)
    except ValueError:
        # a shard that was cut short, or of an earlier checkpoint: the view is written again
        shutil.rmtree(folder)
        return None
    found = store.header
    same = all(
        getattr(found, name) == getattr(header, name)
        for name in ("checkpoint_fingerprint", "data_fingerprint", "split_fingerprint", "recipe_hash", "classes")
    )
    if not same:
        shutil.rmtree(folder)
        return None
    dtype = store.dtype_of(header.view)
    return dtype if store.has(header.view, ids) and dtype in ("float16", header.dtype) else None


def rounding_note(stores: Sequence[LogitStore]) -> list[str]:
    """A note for a verdict on 8-bit logits; none where there are none."""
    rounded = [store.header.trial for store in stores if any(store.dtype_of(v) == "uint8" for v in store.views)]
    if not rounded:
        return []
    return [
        f"logits of {len(rounded)} members ({', '.join(rounded)}) were kept in 8 bits: the bundle, which rounds "
        "nothing, may differ from these scores in the last digits"
    ]


def _header(candidate: Candidate, cache: Cache, split: Split, checkpoint: str) -> LogitHeader:
    """Of the plain view of val; `checkpoint` is the fingerprint of the weights, with folds that of their lineage."""
    return LogitHeader(
        trial=candidate.trial,
        recipe_hash=candidate.recipe.hash,
        family=candidate.recipe.family,
        split="val",
        view=View().name,
        classes=cache.index.classes,
        stride=0,  # known when the network is built
        data_fingerprint=cache.index.fingerprint,
        split_fingerprint=split.fingerprint,
        checkpoint_fingerprint=checkpoint,
        lineage=checkpoint if candidate.folds else "",
    )


def _forecast(candidate: Candidate, cache: Cache, split: Split, views: Sequence[View], dtype: Dtype) -> int:
    with torch.device("meta"):
        stride = build_segmentor(candidate.recipe, cache.index.num_classes, pretrained=False).stride
    sizes = Counter(cache.size(image_id) for part in candidate.parts for image_id in ids_of(split, part))
    total = 0
    for (height, width), count in sizes.items():
        grids = [
            (h // stride, w // stride)
            for h, w in (view_size(height, width, candidate.recipe.augmentation.short_px, v.scale) for v in views)
        ]
        total += forecast_bytes(count, cache.index.num_classes, grids, dtype)
    return total
