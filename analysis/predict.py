"""Label a folder of images with a bundle.

    python analysis/predict.py --bundle RUN/bundle --images FOLDER --out OUT

The folder is walked recursively. Written under OUT, at the images' own relative paths, are palette PNGs
(`png`, the default) or float16 probabilities as safetensors (`probabilities`), or one COCO file (`rle`). Pixels are
taken as stored, as in training: an orientation tag is warned of and not applied. Files that are no image by their
suffix are named and left out. Exit code 2 where the input is wrong or an image cannot be read; all other images are
finished first. Heavy imports come late, so that --help and a broken bundle answer at once.
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
    from trainables.data.image_file import DecodedImage

MAX_NAMED = 20
NO_IMAGE = "file that is no image by its suffix, left out"
app = new_app()


@dataclass
class Outcome:
    """What became of the files of a folder."""

    names: list[str]  # of images
    unreadable: list[str] = field(default_factory=list)  # images that could not be read, a line each
    warnings: dict[str, list[str]] = field(default_factory=dict)  # rule -> the files that bend it
    note: str = ""  # on the bundle


class Format(StrEnum):
    png = "png"
    rle = "rle"
    probabilities = "probabilities"


@app.command()
def main(
    bundle: Annotated[Path, typer.Option(help="The bundle/ folder of a finished run.")],
    images: Annotated[Path, typer.Option(help="A folder of images, searched recursively.")],
    out: Annotated[Path, typer.Option(help="Where predictions are written; made if absent.")],
    output_format: Annotated[
        Format, typer.Option("--format", help="Palette PNGs, one COCO file, or float16 probabilities.")
    ] = Format.png,
    batch_size: Annotated[int, typer.Option(min=1, help="Images per forward pass.")] = 8,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, ...; auto takes a GPU where there is one.")] = "auto",
    debug: DebugOption = False,
) -> None:
    """Label every image of a folder with what a run shipped."""
    with errors_to_exit(debug=debug):
        outcome = predict_folder(bundle, images, out, output_format, batch_size, device)
    _report(outcome, out)


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


def predict_folder(
    bundle: Path, images: Path, out: Path, output_format: Format, batch_size: int, device: str
) -> Outcome:
    """Predict all of `images` into `out`.

    Raises ValueError (BundleError) before the first prediction where the bundle, a folder or the device is wrong, and
    later where --out is full or a batch does not fit the memory.
    """
    from analysis.bundle.manifest import read_bundle

    checked = read_bundle(bundle)
    outcome = sort_files(images, out, one_file=output_format is Format.rle)
    if checked.manifest.user_choice is not None:
        outcome.note = checked.manifest.user_choice.sentence

    from analysis.bundle.predictor import Predictor
    from analysis.bundle.writers import WRITERS

    predictor = Predictor(checked, device=device, batch_size=batch_size)
    with _writable(out):
        out.mkdir(parents=True, exist_ok=True)
    writer = WRITERS[output_format](out, predictor, checked.manifest.background)
    for batch in _read_ahead(images, outcome.names, batch_size):
        readable = {name: image for name, image in batch.items() if not isinstance(image, str)}
        outcome.unreadable += [problem for problem in batch.values() if isinstance(problem, str)]
        for name, image in readable.items():
            for rule in image.warnings:
                outcome.warnings.setdefault(rule, []).append(name)
        with _writable(out), _fits_memory(batch_size):
            writer.write_all(predictor, {name: image.pixels for name, image in readable.items()})
    with _writable(out):
        writer.close()
    return outcome


def sort_files(images: Path, out: Path, *, one_file: bool) -> Outcome:
    """The images under a folder, by their suffixes, and the other files, as sorted relative paths with '/'.

    Raises ValueError where there is none, where `out` lies inside (its PNGs would be taken for images), and, unless all
    go to one file, where two images would be written to one name.
    """
    if not images.is_dir():
        raise ValueError(f"--images must be a folder, got {images}; give the folder that holds the images")
    if out.resolve().is_relative_to(images.resolve()):
        raise ValueError(f"--out must lie outside --images, got {out} in {images}; choose another folder")
    from trainables.data.image_file import SUFFIXES

    names: list[str] = []
    others: list[str] = []
    for path in sorted(path for path in images.rglob("*") if path.is_file()):
        hidden = path.name.startswith(".")  # macOS leaves ._a.jpg beside a.jpg
        kept = names if path.suffix.lower() in SUFFIXES and not hidden else others
        kept.append(path.relative_to(images).as_posix())
    if not names:
        kinds = ", ".join(sorted(SUFFIXES))
        raise ValueError(f"--images must hold at least one image ({kinds}), got none in {images}; check the folder")
    first: dict[Path, str] = {}
    for name in names if not one_file else ():
        other = first.setdefault(Path(name).with_suffix(""), name)
        if other != name:
            raise ValueError(f"two images would be written to one name: {other} and {name}; rename one or use rle")
    return Outcome(names, warnings={NO_IMAGE: others} if others else {})


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


def _read_ahead(images: Path, names: Sequence[str], batch_size: int) -> Iterator[dict[str, DecodedImage | str]]:
    """Batches of name -> image, or an error message; one batch is read while another is worked on."""
    from trainables.data.image_file import decode_image

    def read(name: str) -> DecodedImage | str:
        if not can_name_file(name):
            return f"{name!r}: its name is no UTF-8 text, so that no prediction can be named after it; rename it"
        try:
            return decode_image(images / name)
        except (ValueError, OSError) as error:
            return str(error)

    with ThreadPoolExecutor(max_workers=4) as pool:
        pending: deque[dict[str, Future[DecodedImage | str]]] = deque()
        for start in range(0, len(names), batch_size):
            pending.append({name: pool.submit(read, name) for name in names[start : start + batch_size]})
            if len(pending) == 2:
                yield {name: future.result() for name, future in pending.popleft().items()}
        for batch in pending:
            yield {name: future.result() for name, future in batch.items()}


if __name__ == "__main__":
    app()
