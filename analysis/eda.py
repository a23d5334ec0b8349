"""Look at a data set before anything is trained: one offline page.

    python analysis/eda.py --data data.yaml --out eda.html

Enters: a data card, and a split file where parts other than the card's are meant. Leaves: the page, and its facts as
JSON beside it. Every image is decoded once; no cache is needed or written. Of a hold-out only sums are shown.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from analysis.survey import Survey
    from trainables.data.index import SegIndex

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
MAX_PICTURES, PER_CLASS, PICTURE_PX = 180, 6, 220
SHOWN_CLUSTERS, PER_CLUSTER = 6, 6


@app.command()
def main(
    data: Annotated[Path, typer.Option(help="The data card (YAML).")],
    out: Annotated[Path, typer.Option(help="The page to write; its facts go beside it as .json.")] = Path("eda.html"),
    split: Annotated[Path | None, typer.Option(help="A split file: its parts in place of the card's.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the galleries.")] = 0,
    workers: Annotated[int, typer.Option(min=0, help="Processes; 0: one a core.")] = 0,
    debug: Annotated[bool, typer.Option(help="Show tracebacks.")] = False,
) -> None:
    """Describe a data set in one HTML page."""
    try:
        lines = describe(data, out, split, seed, workers)
    except (ValueError, OSError) as error:
        if debug:
            raise
        typer.secho(f"eda: {error}", err=True, fg=typer.colors.RED)
        raise typer.Exit(2) from None
    typer.echo("\n".join(lines))


def describe(card: Path, out: Path, split_file: Path | None, seed: int, workers: int) -> list[str]:
    """Write the page and its facts; what to know, a line each. ValueError for what the user can mend."""
    if out.suffix != ".html":
        raise ValueError(f"--out must be an .html file, got {out}; e.g. eda.html")
    from analysis import survey_facts
    from analysis.survey import survey
    from trainables.data.card import read_card
    from trainables.data.coco import read
    from trainables.data.split_file import read_split

    index = read(read_card(card))
    part_of: dict[str, str] = {image.image_id: image.role for image in index.images}
    if split_file is not None:
        split = read_split(split_file, index)
        listed = {"train": split.train_ids, "val": split.val_ids, "holdout": split.holdout_ids}
        left_out = {i: "unlabelled" if role == "unlabelled" else "left out" for i, role in part_of.items()}
        part_of = left_out | {image_id: part for part, ids in listed.items() for image_id in ids}
    seen = survey(index, num_workers=workers or None)
    copies = survey_facts.copies(index, seen, part_of)
    parts = list(dict.fromkeys(part_of.values()))
    groups = {image.image_id: image.group for image in index.images}
    by_part = survey_facts.shares_by(index, seen, part_of)
    facts: dict[str, Any] = {
        "data": index.name,
        "fingerprint": index.fingerprint,
        "num_images": len(index.images),
        "num_annotations": len(seen.annotation_class),
        "num_empty": sum(not i.annotations for i in index.images if i.role != "unlabelled"),
        "images_by_part": {part: sum(p == part for p in part_of.values()) for part in parts},
        "findings": survey_facts.summary(index, seen, copies),
        "classes": survey_facts.class_rows(index, seen),
        "overlaps": survey_facts.overlap_rows(index, seen),
        "duplicate_annotations": [list(each) for each in seen.duplicates[:200]],
        "together": survey_facts.together(seen).round(4).tolist(),
        "shapes": survey_facts.shape_rows(index),
        "copies": copies,
        "share_by_part": {part: by_part[part] for part in parts if part in by_part},
        "share_by_group": survey_facts.shares_by(index, seen, groups) if index.grouped else {},
        "colours": survey_facts.colour_rows(index, seen, part_of),
    }
    from analysis.pages import write_facts

    write_facts(out.with_suffix(".json"), facts)
    _page(out, index, seen, facts, part_of, seed)
    head = f"{facts['num_images']} images, {facts['num_annotations']} annotations, {index.num_classes} classes"
    return [head, *(f"note: {note}" for note in facts["findings"]), f"written: {out}, {out.with_suffix('.json')}"]


def _page(out: Path, index: SegIndex, seen: Survey, facts: dict[str, Any], part_of: dict[str, str], seed: int) -> None:
    from analysis import pages
    from analysis.gallery import css
    from analysis.palette import palette

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
    pages.write_page(out, "eda.html.j2", values, _figures(index, seen, facts))


def _maps(index: SegIndex, seen: Survey) -> list[dict[str, Any]]:
    from analysis.pages import stencil

    maps = []
    for k, name in enumerate(index.classes):
        top = float(seen.heat[k].max())
        if top > 0:
            maps.append({"class": name, "top": min(1.0, top), "uri": stencil(seen.heat[k] / top)})
    return maps


def _clusters(index: SegIndex, clusters: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The largest clusters, each by images spread over it."""
    from analysis.pages import photograph
    from trainables.data.raster import read_image

    records = index.by_id()
    shown = []
    for one in clusters[:SHOWN_CLUSTERS]:
        ids = sorted(one["images"])
        picked = [ids[n * len(ids) // min(PER_CLUSTER, len(ids))] for n in range(min(PER_CLUSTER, len(ids)))]
        pictures = [{"name": i, "text": "", "uri": photograph(read_image(records[i].path), PICTURE_PX)} for i in picked]
        shown.append({"size": len(ids), "parts": one["parts"], "pictures": pictures})
    return shown


def _gallery(index: SegIndex, seen: Survey, part_of: dict[str, str], colours: Any, seed: int) -> list[dict[str, Any]]:
    """A few images a class, the labels over them; the hold-out stays sealed."""
    import cv2
    import numpy as np

    from analysis.pages import photograph, tinted
    from trainables.data.raster import rasterise, read_image

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
            label = rasterise(record, index.ignore_index, background=index.background)
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


def _figures(index: SegIndex, seen: Survey, facts: dict[str, Any]) -> dict[str, str]:
    import numpy as np

    from analysis import data_charts as charts

    rows, names = facts["classes"], index.classes
    sides = np.sqrt(seen.annotation_px[seen.annotation_px > 0])
    per_image = np.bincount(seen.annotation_image, minlength=len(index.images))
    per_image = per_image[[image.role != "unlabelled" for image in index.images]]
    hover = "%{customdata[0]} with %{customdata[1]}: %{z:.1%}<extra></extra>"
    figures = {
        "pixels": charts.bars(names, {"share": [r["share"] for r in rows]}, "share of labelled pixels", percent=True),
        "counts": charts.bars(
            names,
            {"images": [r["images"] for r in rows], "annotations": [r["annotations"] or None for r in rows]},
            "count, on a log scale",
            log=True,
        ),
        "areas": charts.histogram(
            {"annotations": sides.tolist()},
            np.geomspace(1, 4096, 49).tolist(),
            "square root of the area in px",
            log=True,
        ),
        "together": charts.heat(np.array(facts["together"]), names, names, hover=hover, labels=".0%"),
        "per_image": charts.histogram(
            {"images": per_image.tolist()}, list(range(int(per_image.max(initial=1)) + 2)), "annotations an image"
        ),
        "parts": charts.bars(names, facts["share_by_part"], "share of the part's labelled pixels", percent=True),
    }
    if facts["share_by_group"]:
        z = np.array(list(facts["share_by_group"].values()))
        group_hover = "%{customdata[0]}<br>%{customdata[1]}: %{z:.2%}<extra></extra>"
        figures["groups"] = charts.heat(z, list(facts["share_by_group"]), names, hover=group_hover, labels=".0%")
    return figures


if __name__ == "__main__":
    app()
