"""Label images with a bundle.

    python analysis/predict.py --bundle RUN/bundle --out OUT INPUT...

An input is an image, a folder (walked recursively), a pattern such as 'photos/*.jpg', a COCO file (the images that it
lists) or a zip. Written under OUT, at the images' own relative paths, are palette PNGs (`png`, the default) or float16
probabilities as safetensors (`probabilities`), or one COCO file (`rle`). Pixels are taken as stored, as in training: an
orientation tag is warned of and not applied. Files that are no image by their suffix are named and left out. Exit code
2 where the input is wrong or an image cannot be read; all other images are finished first. Heavy imports come late, so
that --help and a broken bundle answer at once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trainables.command import DebugOption, errors_to_exit, fail, new_app
from trainables.files import can_name_file
from trainables.worker_process import is_out_of_memory

if TYPE_CHECKING:
    from analysis.bundle.inputs import NamedImage
    from trainables.data.image_file import DecodedImage

MAX_NAMED = 20
app = new_app()


class Format(StrEnum):
    png = "png"
    rle = "rle"
    probabilities = "probabilities"


ONE_FILE = {Format.rle}  # formats of which one file holds all images


@dataclass(frozen=True)
class Job:
    """What is predicted, with what, and where to."""

    bundle: Path
    inputs: tuple[str, ...]
    out: Path
    output_format: Format = Format.png
    batch_size: int = 8
    device: str = "auto"
    coco_images: Path | None = None  # what the names in COCO files are relative to; None: each file's own folder


@dataclass
class Outcome:
    """What became of the images."""

    names: list[str]  # of images
    unreadable: list[str] = field(default_factory=list)  # images that could not be read, a line each
    warnings: dict[str, list[str]] = field(default_factory=dict)  # rule -> the files that bend it
    note: str = ""  # on the bundle


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
        Format, typer.Option("--format", help="Palette PNGs, one COCO file, or float16 probabilities.")
    ] = Format.png,
    batch_size: Annotated[int, typer.Option(min=1, help="Images per forward pass.")] = 8,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, ...; auto takes a GPU where there is one.")] = "auto",
    debug: DebugOption = False,
) -> None:
    """Label images with what a run shipped."""
    with errors_to_exit(debug=debug):
        given, coco_images = _given(inputs or [], images)
        outcome = predict_images(Job(bundle, given, out, output_format, batch_size, device, coco_images))
    _report(outcome, out)


def _given(inputs: Sequence[str], images: Path | None) -> tuple[tuple[str, ...], Path | None]:
    """The inputs, and the folder of COCO files' images. `--images` alone is an input."""
    if images is not None and not images.is_dir():
        raise ValueError(f"--images must be a folder, got {images}; give the folder that holds the images")
    if images is not None and inputs and not any(text.lower().endswith(".json") for text in inputs):
        raise ValueError(f"--images goes with COCO files, got it beside {', '.join(inputs)}; list the folder with them")
    if images is None and not inputs:
        raise ValueError("at least one input is needed, got none; name images, a folder, a COCO file or a zip")
    return (tuple(inputs), images) if inputs else ((str(images),), None)


def _report(outcome: Outcome, out: Path) -> None:
    """Warnings, the count, and exit code 2 with everything that could not be read."""
    if outcome.note:
        typer.echo(f"note: {outcome.note}", err=True)
    for rule, names in outcome.warnings.items():
        more = ", ..." if len(names) > MAX_NAMED else ""
        typer.echo(f"warning: {rule} ({', '.join(names[:MAX_NAMED])}{more}): {len(names)}", err=True)
    typer.echo(f"{len(outcome.names) - len(outcome.unreadable)} of {len(outcome.names)} images labelled, in {out}")
    if outcome.unreadable:
        lines = "\n".join(f"  {problem}" for problem in outcome.unreadable)
        fail(f"{len(outcome.unreadable)} images could not be read:\n{lines}")


def predict_images(job: Job) -> Outcome:
    """Predict all images of the job.

    Raises ValueError (BundleError, DataProblems) before the first prediction where the bundle, an input or the device
    is wrong, and later where `out` is full or a batch does not fit the memory.
    """
    from analysis.bundle.inputs import NO_IMAGE, open_inputs
    from analysis.bundle.manifest import read_bundle

    checked = read_bundle(job.bundle)
    with open_inputs(job.inputs, job.out, coco_images=job.coco_images) as found:
        outcome = Outcome([image.name for image in found.images])
        if found.others:
            outcome.warnings[NO_IMAGE] = found.others
        if job.output_format not in ONE_FILE:
            refuse_shared_targets(outcome.names)
        if checked.manifest.user_choice is not None:
            outcome.note = checked.manifest.user_choice.sentence

        from analysis.bundle.predictor import Predictor
        from analysis.bundle.writers import WRITERS

        predictor = Predictor(checked, device=job.device, batch_size=job.batch_size)
        with _writable(job.out):
            job.out.mkdir(parents=True, exist_ok=True)
        writer = WRITERS[job.output_format](job.out, predictor, checked.manifest.background)
        for batch in _read_ahead(found.images, job.batch_size):
            readable = {name: image for name, image in batch.items() if not isinstance(image, str)}
            outcome.unreadable += [problem for problem in batch.values() if isinstance(problem, str)]
            for name, image in readable.items():
                for rule in image.warnings:
                    outcome.warnings.setdefault(rule, []).append(name)
            with _writable(job.out), _fits_memory(job.batch_size):
                writer.write_all(predictor, {name: image.pixels for name, image in readable.items()})
    with _writable(job.out):
        writer.close()
    return outcome


def refuse_shared_targets(names: Sequence[str]) -> None:
    """Raises ValueError where two images would be written to one name: x.jpg and x.png."""
    first: dict[Path, str] = {}
    for name in names:
        other = first.setdefault(Path(name).with_suffix(""), name)
        if other != name:
            raise ValueError(f"two images would be written to one name: {other} and {name}; rename one or use rle")


@contextmanager
def _writable(out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ValueError(
            f"--out must be writable and have room, got {out} ({error.strerror or error}); what was finished is kept: "
            "free some space, or choose another folder"
        ) from error


@contextmanager
def _fits_memory(batch_size: int) -> Iterator[None]:
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise ValueError(f"{error}; use a smaller --batch-size, now {batch_size}") from error


def _read_ahead(images: Sequence[NamedImage], batch_size: int) -> Iterator[dict[str, DecodedImage | str]]:
    """Batches of name -> image, or an error message; one batch is read while another is worked on."""

    def read(image: NamedImage) -> DecodedImage | str:
        if not can_name_file(image.name):
            return f"{image.name!r}: its name is no UTF-8 text, so that no prediction can be named after it; rename it"
        try:
            return image.read()
        except (ValueError, OSError) as error:
            return str(error)

    with ThreadPoolExecutor(max_workers=4) as pool:
        pending: deque[dict[str, Future[DecodedImage | str]]] = deque()
        for start in range(0, len(images), batch_size):
            pending.append({image.name: pool.submit(read, image) for image in images[start : start + batch_size]})
            if len(pending) == 2:
                yield {name: future.result() for name, future in pending.popleft().items()}
        for batch in pending:
            yield {name: future.result() for name, future in batch.items()}


if __name__ == "__main__":
    app()
