"""Renders the data set page."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from analysis.dataset.statistics import DatasetStatistics
    from trainables.data.index import SegIndex


MAX_PICTURES, PER_CLASS, PICTURE_PX = 180, 6, 220
SHOWN_CLUSTERS, PER_CLUSTER = 6, 6


def write_page(
    out: Path, index: SegIndex, seen: DatasetStatistics, facts: dict[str, Any], part_of: dict[str, str], seed: int
) -> None:
    from analysis.report import html
    from analysis.report.gallery import css
    from analysis.report.palette import palette

    colours = palette(index.num_classes, background=index.background)
    values = {
        **facts,
        "title": f"Data set {index.name}",
        "classes": [{**row, "colour": css(colours[k])} for k, row in enumerate(facts["classes"])],
        "maps": _maps(index, seen),
        "by_group": bool(facts["share_by_group"]),
        "shown_clusters": _clusters(index, facts["copies"]["clusters"]),
        "gallery": _gallery(index, seen, part_of, colours, seed),
    }
    html.write_page(out, "eda.html.j2", values, _figures(index, seen, facts))


def _maps(index: SegIndex, seen: DatasetStatistics) -> list[dict[str, Any]]:
    from analysis.report.html import stencil

    maps = []
    for k, name in enumerate(index.classes):
        top = float(seen.heat[k].max())
        if top > 0:
            maps.append({"class": name, "top": min(1.0, top), "uri": stencil(seen.heat[k] / top)})
    return maps


def _clusters(index: SegIndex, clusters: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The largest clusters, each by images spread over it."""
    from analysis.report.html import photograph
    from trainables.data.image_file import read_image

    records = index.by_id()
    shown = []
    for one in clusters[:SHOWN_CLUSTERS]:
        ids = sorted(one["images"])
        picked = [ids[n * len(ids) // min(PER_CLUSTER, len(ids))] for n in range(min(PER_CLUSTER, len(ids)))]
        pictures = [{"name": i, "text": "", "uri": photograph(read_image(records[i].path), PICTURE_PX)} for i in picked]
        shown.append({"size": len(ids), "parts": one["parts"], "pictures": pictures})
    return shown


def _gallery(
    index: SegIndex, seen: DatasetStatistics, part_of: dict[str, str], colours: Any, seed: int
) -> list[dict[str, Any]]:
    """A few images per class, the labels over them; the hold-out stays sealed."""
    import cv2
    import numpy as np

    from analysis.report.html import photograph, tinted
    from trainables.data.image_file import read_image
    from trainables.data.label_sources import label_source

    rng = np.random.default_rng(seed)
    may_show = np.array(
        [part_of[i.image_id] != "holdout" and i.role not in ("holdout", "unlabelled") for i in index.images]
    )
    each = max(1, min(PER_CLASS, MAX_PICTURES // index.num_classes))
    groups = []
    for k, name in enumerate(index.classes):
        rows = np.flatnonzero((seen.class_pixels[:, k] > 0) & may_show)
        pictures = []
        for n in sorted(rng.permutation(rows)[:each].tolist()):
            record = index.images[n]
            label = label_source(index, record).label()
            factor = min(1.0, 2 * PICTURE_PX / max(label.shape))
            size = (max(1, round(label.shape[1] * factor)), max(1, round(label.shape[0] * factor)))
            image = np.asarray(cv2.resize(read_image(record.path), size, interpolation=cv2.INTER_AREA), np.uint8)
            small = np.asarray(cv2.resize(label, size, interpolation=cv2.INTER_NEAREST), np.uint8)
            uri = photograph(tinted(image, small, colours, background=index.background), PICTURE_PX)
            pixels = int(seen.class_pixels[n, k])
            pictures.append({"name": record.image_id, "text": f"{pixels / label.size:.1%} {name}", "uri": uri})
        if pictures:
            groups.append({"class": name, "images": int((seen.class_pixels[:, k] > 0).sum()), "pictures": pictures})
    return groups


def _figures(index: SegIndex, seen: DatasetStatistics, facts: dict[str, Any]) -> dict[str, str]:
    import numpy as np

    from analysis.report import data_charts as charts

    rows, names = facts["classes"], index.classes
    sides = np.sqrt(seen.annotation_px[seen.annotation_px > 0])
    per_image = np.bincount(seen.annotation_image, minlength=len(index.images))
    per_image = per_image[[image.role != "unlabelled" for image in index.images]]
    hover = "%{customdata[0]} with %{customdata[1]}: %{z:.1%}<extra></extra>"
    figures = {
        "pixels": charts.bars(
            names, {"share": [r["share"] for r in rows]}, "share of labelled pixels, log scale", log=True, percent=True
        ),
        "counts": charts.bars(
            names,
            {"images": [r["images"] for r in rows], "annotations": [r["annotations"] or None for r in rows]},
            "count, on a log scale",
            log=True,
        ),
        "areas": charts.histogram(
            {"annotations": sides.tolist()},
            np.geomspace(1, max(4096.0, float(sides.max(initial=1))), 49).tolist(),
            "square root of the area in px",
            log=True,
        ),
        "together": charts.heat(np.array(facts["together"]), names, names, hover=hover, labels=".0%"),
        "per_image": charts.histogram(
            {"images": per_image.tolist()}, list(range(int(per_image.max(initial=1)) + 2)), "annotations per image"
        ),
        "parts": charts.bars(
            names, facts["share_by_part"], "share of the part's labelled pixels, log scale", log=True, percent=True
        ),
    }
    if facts["share_by_group"]:
        z = np.array(list(facts["share_by_group"].values()))  # (G,K)
        relative = z / np.maximum(z.max(axis=0, keepdims=True), 1e-12)  # so that a rare class is seen too
        hover = "%{customdata[0]}<br>%{customdata[1]}: %{z:.0%} of its largest share<extra></extra>"
        figures["groups"] = charts.heat(relative, list(facts["share_by_group"]), names, hover=hover, labels=".0%")
    return figures
