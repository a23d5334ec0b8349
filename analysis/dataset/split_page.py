"""Renders the split report."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from analysis.dataset.distribution_shift import DistributionShift
    from trainables.data.cache import Cache
    from trainables.data.index import SegIndex, Split


NUM_PICTURES = 6
NUM_FEATURES = 12


def write_report(
    out: Path,
    index: SegIndex,
    cache: Cache,
    split: Split,
    folds: tuple[tuple[str, ...], ...],
    found: list[str],
    facts: list[Any],
    twins: list[Any],
    runs: list[Any],
    pixels: Mapping[str, Any],
    likeness: DistributionShift | str,
) -> None:
    """split.html and split.report.json."""
    from analysis.dataset import split_quality
    from analysis.report import data_charts, html

    parts = split_quality.parts_of(split)
    classes = split_quality.class_table(index, parts, pixels)
    groups = {image.image_id: image.group for image in index.images}
    fold_rows = [
        {
            "name": f"fold {f}",
            "num_images": len(ids),
            "num_groups": len({groups[i] for i in ids}),
            "lacks": [
                r["class"] for r in split_quality.class_table(index, {"fold": ids}, pixels) if not r["images"]["fold"]
            ],
        }
        for f, ids in enumerate(folds)
    ]
    values: dict[str, Any] = {
        "parts": split_quality.as_json(facts),
        "classes": classes,
        "bursts": split_quality.as_json(runs),
        "folds": fold_rows,
        "findings": found,
        "likeness": None if isinstance(likeness, str) else likeness.as_json(),
    }
    html.write_facts(out.with_suffix(".report.json"), {"data": index.name, "fingerprint": split.fingerprint, **values})
    named = {part: [row["share"][part] for row in classes] for part in parts}
    figures = {"shares": data_charts.bars(index.classes, named, "share of the part's labelled pixels", percent=True)}
    if isinstance(likeness, str):
        values["no_likeness"] = likeness
    else:
        figures |= _likeness_part(values, likeness, cache)
    pairs = [
        {
            **vars(t),
            "uri": html.photograph(cache.image(t.image_id), 320),
            "train_uri": html.photograph(cache.image(t.train_id), 320),
        }
        for t in _spread(twins)
    ]
    title = f"Split of {index.name}"
    headline = _headline(found, facts, index.grouped)
    values |= {"title": title, "headline": headline, "grouped": index.grouped, "written": str(out), "pairs": pairs}
    html.write_page(out.with_suffix(".html"), "split.html.j2", values, figures)


def _likeness_part(values: dict[str, Any], likeness: DistributionShift, cache: Cache) -> dict[str, str]:
    """The values of the page's last section, and its figure."""
    import numpy as np

    from analysis.dataset.distribution_shift import sentence
    from analysis.dataset.image_features import FEATURES
    from analysis.report import data_charts, html

    main = likeness.main
    by_power = sorted(main.features, key=lambda name: -abs(main.features[name][0].value - 0.5))[:NUM_FEATURES]
    values["features"] = [
        {"name": name, "family": FEATURES[name], "a": main.features[name][1], "b": main.features[name][2]}
        | {"auc": main.features[name][0].value, "low": main.features[name][0].low, "high": main.features[name][0].high}
        for name in by_power
    ]
    order_a, order_b = np.argsort(main.scores_a), np.argsort(-main.scores_b)

    def shown(ids: tuple[str, ...], rows: Any) -> list[dict[str, str]]:
        return [{"name": ids[n], "text": "", "uri": html.photograph(cache.image(ids[n]), 240)} for n in rows]

    values["least_alike"] = shown(likeness.candidate_ids, order_a[:NUM_PICTURES])
    values["most_alike_images"] = shown(likeness.candidate_ids, order_a[::-1][:NUM_PICTURES])
    values["strangest"] = shown(likeness.target_ids, order_b[:NUM_PICTURES])
    values["likeness_sentence"] = sentence(likeness)
    marks = {**likeness.aucs, **{f"val by {name} alone": auc for name, auc in main.families.items()}}
    return {
        "aucs": data_charts.intervals(
            list(marks), [(auc.value, auc.low, auc.high) for auc in marks.values()], f"AUC against {likeness.target}"
        )
    }


def _spread(twins: list[Any]) -> list[Any]:
    """The nearest pairs, each train image once: a burst would fill the page with one scene."""
    seen: set[str] = set()
    kept: list[Any] = []
    for twin in twins:
        if twin.train_id not in seen and len(kept) < NUM_PICTURES:
            seen.add(twin.train_id)
            kept.append(twin)
    return kept


def _headline(found: list[str], facts: list[Any], grouped: bool) -> str:
    val = next(one for one in facts if one.part == "val")
    worst = next((note for note in found if note.startswith(("val shows", "every group of val"))), None)
    if worst:
        return f"do not trust this val: {worst}"
    where = f"{val.num_groups} group{'' if val.num_groups == 1 else 's'} and " if grouped else ""
    scenes = f"{val.num_images} images of val in {where}{val.num_scenes} scene{'' if val.num_scenes == 1 else 's'}"
    apart = not val.twins_in_train and not (grouped and val.groups_in_train)
    return f"{scenes}{', none of them in train' if apart else ''}"
