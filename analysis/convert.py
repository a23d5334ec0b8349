"""Convert what a labelling tool exports to COCO and a data card.

    python analysis/convert.py --from labelme photos/ --out converted/
    python search/run.py --space convnext.yaml --data converted/data.yaml

Formats: LabelMe, CVAT for images 1.1, Pascal VOC's SegmentationClass, YOLO segmentation, Cityscapes. Images are neither
copied nor changed. Everything that is wrong with the input is reported at once, and DIR appears whole or not at all.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from trainables.command import DebugOption, errors_to_exit, new_app, run_command

app = new_app()


class Format(StrEnum):
    labelme = "labelme"
    cvat = "cvat"
    voc = "voc"
    yolo = "yolo"
    cityscapes = "cityscapes"


@app.command()
def main(
    folder: Annotated[Path, typer.Argument(metavar="IN", help="The folder with images and labels.")],
    out: Annotated[Path, typer.Option(help="A folder that does not exist yet.")],
    source: Annotated[Format, typer.Option("--from", help="The format of IN.")],
    boxes: Annotated[
        bool, typer.Option("--boxes", help="Take rectangles as outlines, which else are refused.")
    ] = False,
    follow_links: Annotated[
        bool, typer.Option("--follow-links", help="Symbolic links may lead out of IN; the card says so as well.")
    ] = False,
    debug: DebugOption = False,
) -> None:
    """Convert a labelling tool's export to COCO and a data card."""
    with errors_to_exit(debug=debug):
        from analysis.conversion.write_set import convert

        lines = convert(source.value, folder, out, boxes=boxes, follow_links=follow_links)
    card = out / "data.yaml"
    command = run_command("--space", "convnext.yaml", "--data", card)
    typer.echo("\n".join([*lines, f"written: {card}", f"next: {command}"]))


if __name__ == "__main__":
    app()
