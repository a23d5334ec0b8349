"""Label images with a bundle.

    python analysis/predict.py --bundle RUN/bundle --out OUT INPUT...

An input is an image, a folder (walked recursively), a pattern such as 'photos/*.jpg', a COCO file (the images that it
lists) or a zip. Written under OUT, at the images' own relative paths, are palette PNGs (`png`, the default),
photographs under the colours of their classes (`overlay`) or float16 probabilities as safetensors (`probabilities`); or
one COCO file (`rle`), or one CSV file as competitions take it (`csv`). The same command again goes on where it was
stopped.

Pixels are taken as stored, as in training: an orientation tag is warned of and not applied. Files that are no image by
their suffix are named and left out. Exit code 2 where the input is wrong or an image cannot be read; all other images
are finished first. Heavy imports come late, so that --help and a broken bundle answer at once.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from analysis.bundle.job import CsvLayout, Execution, Format, Job, csv_layout, given_inputs, given_tile
from analysis.bundle.outcome import report
from trainables.command import DebugOption, errors_to_exit, new_app

app = new_app()


@app.command()
def main(
    bundle: Annotated[Path, typer.Option(help="The bundle/ folder of a finished run.")],
    out: Annotated[Path, typer.Option(help="Where predictions are written; made if absent.")],
    inputs: Annotated[
        list[str] | None,
        typer.Argument(
            help="Images, folders, patterns such as 'photos/*.jpg', COCO files, zip archives.", metavar="INPUT"
        ),
    ] = None,
    images: Annotated[
        Path | None, typer.Option(help="A folder of images; beside COCO files, the folder their names are relative to.")
    ] = None,
    output_format: Annotated[
        Format,
        typer.Option("--format", help="Palette PNGs, one COCO file, float16 probabilities, overlay JPEGs, one CSV."),
    ] = Format.png,
    batch_size: Annotated[int, typer.Option(min=1, help="Images per forward pass.")] = 8,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, ...; auto takes a GPU where there is one.")] = "auto",
    workers: Annotated[int, typer.Option(min=1, max=256, help="Processes; several have one thread each.")] = 1,
    half: Annotated[bool, typer.Option("--half", help="Compute in float16, on a GPU.")] = False,
    compiled: Annotated[bool, typer.Option("--compile", help="Let torch compile the networks: slow to start.")] = False,
    tile: Annotated[
        int | None, typer.Option(help="See larger images through tiles of so many px, in bounded memory.")
    ] = None,
    overlap: Annotated[
        float | None, typer.Option(help="With --tile: share that tiles overlap by; default 0.25.")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace predictions of other settings in --out.")
    ] = False,
    csv_size: Annotated[
        str | None, typer.Option(help="With --format csv: a mask's size, 256 (default) or HEIGHTxWIDTH.")
    ] = None,
    csv_columns: Annotated[
        str | None, typer.Option(help="With --format csv: its columns; default image_id,PredictionString.")
    ] = None,
    csv_separator: Annotated[
        str | None, typer.Option(help="With --format csv: what stands between numbers; default a space.")
    ] = None,
    expected: Annotated[
        Path | None,
        typer.Option(help="With --format csv: a COCO file, sample CSV or data card that names the rows it must have."),
    ] = None,
    debug: DebugOption = False,
) -> None:
    """Label images with what a run shipped."""
    with errors_to_exit(debug=debug):
        given, coco_images = given_inputs(inputs or [], images)
        layout = csv_layout(csv_size, csv_columns, csv_separator)
        if output_format != Format.csv and (layout != CsvLayout() or expected is not None):
            raise ValueError(
                f"--csv-size, --csv-columns, --csv-separator and --expected go with --format csv, got {output_format}; "
                "leave them out"
            )
        how = Execution(device, batch_size, workers, half, compiled, given_tile(tile, overlap))
        job = Job(bundle, given, out, output_format, how, coco_images, layout, expected, overwrite)
        from analysis.bundle.predict_images import predict_images

        outcome = predict_images(job)
    report(outcome, out)


if __name__ == "__main__":
    app()
