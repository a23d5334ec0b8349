"""Describe a data set before anything is trained: one offline page.

    python analysis/eda.py --data data.yaml --out eda.html

Writes the page, and its facts as JSON beside it. Every image is decoded once; no cache is needed or written. Of a
hold-out only sums are shown.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from analysis.dataset.eda_page import write_page
from trainables.command import DebugOption, errors_to_exit, new_app

app = new_app()


@app.command()
def main(
    data: Annotated[Path, typer.Option(help="The data card (YAML).")],
    out: Annotated[Path, typer.Option(help="The page to write; its facts go beside it as .json.")] = Path("eda.html"),
    split: Annotated[Path | None, typer.Option(help="A split file, whose parts replace the card's.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the galleries.")] = 0,
    workers: Annotated[int, typer.Option(min=0, help="Processes; 0: one per core.")] = 0,
    debug: DebugOption = False,
) -> None:
    """Describe a data set in one HTML page."""
    with errors_to_exit(debug=debug):
        lines = describe(data, out, split, seed, workers)
    typer.echo("\n".join(lines))


def describe(card: Path, out: Path, split_file: Path | None, seed: int, workers: int) -> list[str]:
    """Write the page and its facts; returns the summary, line by line. Raises ValueError for what users can correct."""
    if out.suffix != ".html":
        raise ValueError(f"--out must be an .html file, got {out}; e.g. eda.html")
    from analysis.dataset import summary
    from analysis.dataset.statistics import collect_statistics
    from trainables.data.card import read_card
    from trainables.data.reader import read
    from trainables.data.splits.split_file import read_split

    index = read(read_card(card))
    part_of: dict[str, str] = {image.image_id: image.role for image in index.images}
    if split_file is not None:
        split = read_split(split_file, index)
        listed = {"train": split.train_ids, "val": split.val_ids, "holdout": split.holdout_ids}
        left_out = {i: "unlabelled" if role == "unlabelled" else "left out" for i, role in part_of.items()}
        part_of = left_out | {image_id: part for part, ids in listed.items() for image_id in ids}
    seen = collect_statistics(index, num_workers=workers or None)
    copies = summary.copies(index, seen, part_of)
    parts = list(dict.fromkeys(part_of.values()))
    groups = {image.image_id: image.group for image in index.images}
    by_part = summary.shares_by(index, seen, part_of)
    facts: dict[str, Any] = {
        "data": index.name,
        "fingerprint": index.fingerprint,
        "num_images": len(index.images),
        "num_annotations": len(seen.annotation_class),
        "num_empty": summary.num_without_objects(index, seen),
        "images_by_part": {part: sum(p == part for p in part_of.values()) for part in parts},
        "findings": summary.summary(index, seen, copies),
        "classes": summary.class_rows(index, seen),
        "overlaps": summary.overlap_rows(index, seen),
        "duplicate_annotations": [list(each) for each in seen.duplicates[:200]],
        "together": summary.together(seen).round(4).tolist(),
        "shapes": summary.shape_rows(index),
        "copies": copies,
        "share_by_part": {part: by_part[part] for part in parts if part in by_part},
        "share_by_group": summary.shares_by(index, seen, groups) if index.grouped else {},
        "colours": summary.colour_rows(index, seen, part_of),
    }
    from analysis.report.html import write_facts

    write_facts(out.with_suffix(".json"), facts)
    write_page(out, index, seen, facts, part_of, seed)
    head = f"{facts['num_images']} images, {facts['num_annotations']} annotations, {index.num_classes} classes"
    return [head, *(f"note: {note}" for note in facts["findings"]), f"written: {out}, {out.with_suffix('.json')}"]


if __name__ == "__main__":
    app()
