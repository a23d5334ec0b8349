"""Renders the split report."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analysis.dataset.distribution_shift import DistributionShift, sentence
from analysis.dataset.image_features import FEATURES
from analysis.dataset.split_quality import NearDuplicate, SplitQuality, as_json, class_table, parts_of
from analysis.report import data_charts, html
from trainables.data.cache import Cache
from trainables.data.index import SegIndex

NUM_PICTURES = 6
NUM_FEATURES = 12


def write_report(
    out: Path,
    cache: Cache,
    quality: SplitQuality,
    pixels: Mapping[str, NDArray[np.int64]],
    shift: DistributionShift | str,
) -> None:
    """Write the page and its facts: `out` with the suffixes .html and .report.json.

    Args:
        pixels: Image id -> pixels per class (K,).
        shift: val and the folds against the test images, or why they could not be compared.
    """

    index, parts = cache.index, parts_of(quality.split)
    classes = class_table(index, parts, pixels)
    values: dict[str, Any] = {
        "parts": as_json(quality.parts),
        "classes": classes,
        "bursts": as_json(quality.bursts),
        "folds": [_fold_row(index, f, ids, pixels) for f, ids in enumerate(quality.folds)],
        "findings": quality.findings,
        "shift": None if isinstance(shift, str) else shift.as_json(),
    }
    html.write_facts(
        out.with_suffix(".report.json"), {"data": index.name, "fingerprint": quality.split.fingerprint, **values}
    )
    named = {part: [row["share"][part] for row in classes] for part in parts}
    axis = "share of the part's labelled pixels, log scale"
    figures = {"shares": data_charts.bars(index.classes, named, axis, log=True, percent=True)}
    if isinstance(shift, str):
        values["no_shift"] = shift
    else:
        figures |= _shift_part(values, shift, cache)
    values |= {
        "title": f"Split of {index.name}",
        "headline": _headline(quality, index.grouped),
        "grouped": index.grouped,
        "written": str(out),
        "setting": shlex.quote(f"split.file={out}"),
        "pairs": _pairs(quality.near_duplicates, cache),
    }
    html.write_page(out.with_suffix(".html"), "split.html.j2", values, figures)


def _fold_row(index: SegIndex, f: int, ids: Sequence[str], pixels: Mapping[str, NDArray[np.int64]]) -> dict[str, Any]:

    groups = {image.image_id: image.group for image in index.images}
    rows = class_table(index, {"fold": ids}, pixels)
    return {
        "name": f"fold {f}",
        "num_images": len(ids),
        "num_groups": len({groups[i] for i in ids}),
        "lacks": [row["class"] for row in rows if not row["images"]["fold"]],
    }


def _pairs(near_duplicates: Sequence[NearDuplicate], cache: Cache) -> list[dict[str, Any]]:
    """The nearest pairs with their pictures."""

    def picture(image_id: str) -> str:
        return html.photograph(cache.image(image_id), 320)

    return [
        {**vars(pair), "uri": picture(pair.image_id), "train_uri": picture(pair.train_id)}
        for pair in _once_per_train_image(near_duplicates)
    ]


def _shift_part(values: dict[str, Any], shift: DistributionShift, cache: Cache) -> dict[str, str]:
    """Add the values of the page's last section; returns its figure."""

    main = shift.main
    by_power = sorted(main.features, key=lambda name: -abs(main.features[name][0].value - 0.5))[:NUM_FEATURES]
    values["features"] = [
        {"name": name, "family": FEATURES[name], "a": main.features[name][1], "b": main.features[name][2]}
        | {"auc": main.features[name][0].value, "low": main.features[name][0].low, "high": main.features[name][0].high}
        for name in by_power
    ]
    order_a, order_b = np.argsort(main.scores_a), np.argsort(-main.scores_b)

    def shown(ids: tuple[str, ...], rows: Any) -> list[dict[str, str]]:
        return [{"name": ids[n], "text": "", "uri": html.photograph(cache.image(ids[n]), 240)} for n in rows]

    values["least_alike"] = shown(shift.candidate_ids, order_a[:NUM_PICTURES])
    values["most_alike_images"] = shown(shift.candidate_ids, order_a[::-1][:NUM_PICTURES])
    values["strangest"] = shown(shift.target_ids, order_b[:NUM_PICTURES])
    values["shift_sentence"] = sentence(shift)
    marks = {**shift.aucs, **{f"val by {name} alone": auc for name, auc in main.families.items()}}
    return {
        "aucs": data_charts.intervals(
            list(marks), [(auc.value, auc.low, auc.high) for auc in marks.values()], f"AUC against {shift.target}"
        )
    }


def _once_per_train_image(pairs: Sequence[NearDuplicate]) -> list[NearDuplicate]:
    """The nearest pairs, each train image once: a burst would fill the page with one scene."""
    kept: dict[str, NearDuplicate] = {}
    for pair in pairs:
        kept.setdefault(pair.train_id, pair)
    return list(kept.values())[:NUM_PICTURES]


def _headline(quality: SplitQuality, grouped: bool) -> str:
    val = next(one for one in quality.parts if one.part == "val")
    worst = next((note for note in quality.findings if note.startswith(("val shows", "every group of val"))), None)
    if worst:
        return f"do not trust this val: {worst}"
    where = f"{val.num_groups} group{'' if val.num_groups == 1 else 's'} and " if grouped else ""
    scenes = f"{val.num_images} images of val in {where}{val.num_scenes} scene{'' if val.num_scenes == 1 else 's'}"
    apart = not val.near_duplicates_in_train and not (grouped and val.groups_in_train)
    return f"{scenes}{', none of them in train' if apart else ''}"
