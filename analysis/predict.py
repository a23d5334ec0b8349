"""Label images with a bundle.

    python analysis/predict.py --bundle RUN/bundle --out OUT INPUT...

An input is an image, a folder (walked recursively), a pattern such as 'photos/*.jpg', a COCO file (the images that it
lists) or a zip. Written under OUT, at the images' own relative paths, are palette PNGs (`png`, the default),
photographs under the colours of their classes (`overlay`) or float16 probabilities as safetensors (`probabilities`); or
one COCO file (`rle`), or one CSV file as competitions take it (`csv`). The same command again goes on where it was
stopped.

Pixels are taken as stored, as in training: an orientation tag is warned of and not applied. Files that are no image by
their suffix are named and left out. With `--address`, an option of `segsearch predict` alone, the work is done in a Ray
cluster (`search.cluster.predict_batches`). Exit code 2 where the input is wrong or an image cannot be read; all other
images are finished first. Heavy imports come late, so that --help and a broken bundle answer at once.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from analysis.prediction.job import CsvLayout, Execution, Format, Job, csv_layout, given_inputs, given_tile
from analysis.prediction.outcome import report
from trainables.command import DebugOption, errors_to_exit, new_app

if TYPE_CHECKING:
    from analysis.prediction.run_batches import BatchRunner

Cluster = Callable[[str], AbstractContextManager["BatchRunner"]]  # by its address
app = new_app()


@app.command()
def main(
    context: typer.Context,
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
    workers: Annotated[
        int | None,
        typer.Option(
            min=1, max=256, help="Processes, several with one thread each; default 1, with --address as many as fit."
        ),
    ] = None,
    address: Annotated[
        str | None, typer.Option(help="A Ray cluster ('auto', HOST:PORT) whose nodes share the folders; default: none.")
    ] = None,
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
        from analysis.prediction.predict_images import predict_images

        with _runner(address, context.obj) as runner:
            outcome = predict_images(job if address is None else job.absolute(), runner)
    report(outcome, out)


def _runner(address: str | None, cluster: Cluster | None) -> AbstractContextManager[BatchRunner]:
    """Where batches are run. `cluster` is handed over by `search.cli`: nothing here knows Ray."""
    from analysis.prediction.run_batches import LOCAL

    if address is None:
        return nullcontext(LOCAL)
    if cluster is None:
        raise ValueError(
            f"--address goes with the command `segsearch predict`, got {address} for the script, which works on this "
            "machine alone; call the command, or leave --address out"
        )
    return cluster(address)


if __name__ == "__main__":
    app()
