"""What is predicted, with what, how, and where to: the typed options of a prediction. Light to import."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated

from pydantic import Field, StringConstraints

from trainables.files import user_path
from trainables.logits.view_name import tile_fault
from trainables.recipe.config import Config

MAX_SIDE_PX, MAX_NAME = 10_000, 200
SEPARATOR = r'^[^0-9"\r\n]{1,10}$'
Column = Annotated[str, Field(min_length=1, max_length=MAX_NAME)]
Side = Annotated[int, Field(ge=1, le=MAX_SIDE_PX)]


class Format(StrEnum):
    png = "png"
    rle = "rle"
    probabilities = "probabilities"
    overlay = "overlay"
    csv = "csv"


ONE_FILE = {Format.rle, Format.csv}  # formats of which one file holds all images


class CsvLayout(Config):
    """The CSV file that a competition asks for: a row per image, its mask as class numbers row by row."""

    columns: tuple[Column, Column] = ("image_id", "PredictionString")
    height_px: Side = 256
    width_px: Side = 256
    separator: Annotated[str, StringConstraints(pattern=SEPARATOR)] = " "


def csv_layout(size: str | None, columns: str | None, separator: str | None) -> CsvLayout:
    """The layout as options of a command have it: '256' or '256x320' (height x width), 'image_id,PredictionString'.

    Raises ValueError for what is no such text.
    """
    given: dict[str, object] = {}
    if size is not None:
        found = re.fullmatch(r"([1-9]\d{0,4})(?:x([1-9]\d{0,4}))?", size)
        if found is None or max(int(side) for side in found.groups() if side) > MAX_SIDE_PX:
            raise ValueError(f"--csv-size must be 256 or 256x320 (height x width), to {MAX_SIDE_PX}, got {size!r:.40}")
        given |= {"height_px": int(found[1]), "width_px": int(found[2] or found[1])}
    if columns is not None:
        names = columns.split(",")
        if len(names) != 2 or not all(0 < len(name) <= MAX_NAME for name in names) or names[0] == names[1]:
            raise ValueError(f"--csv-columns must be two names with a comma between them, got {columns!r:.80}")
        given["columns"] = tuple(names)
    if separator is not None:
        if not re.fullmatch(SEPARATOR, separator):
            raise ValueError(
                f"--csv-separator must be 1 to 10 characters between numbers, neither digit nor quote, got "
                f"{separator!r:.40}"
            )
        given["separator"] = separator
    return CsvLayout.model_validate(given)


@dataclass(frozen=True)
class Execution:
    """How networks are run. `device` is a torch device's name, or 'auto': a GPU where there is one."""

    device: str = "auto"
    batch_size: int = 8  # images of one size at a time, at most
    workers: int | None = None  # processes; None: one on this machine, as many as fit in a cluster
    half: bool = False  # float16
    compiled: bool = False
    tile: tuple[int, float] | None = None  # px and overlap, in place of what the bundle's views say


@dataclass(frozen=True)
class Job:
    """`inputs` are images, folders, patterns, COCO files and zips."""

    bundle: Path
    inputs: tuple[str, ...]
    out: Path
    output_format: Format = Format.png
    execution: Execution = field(default_factory=Execution)
    coco_images: Path | None = None  # what the names in COCO files are relative to; None: each file's own folder
    layout: CsvLayout = field(default_factory=CsvLayout)  # of the format csv
    expected: Path | None = None  # names the rows that the CSV must have, in their order
    overwrite: bool = False  # predictions of other settings in `out`

    def absolute(self) -> Job:
        """The same with absolute paths, for processes that run in another folder."""
        return replace(
            self,
            bundle=self.bundle.absolute(),
            inputs=tuple(str(user_path(text).absolute()) for text in self.inputs),
            out=self.out.absolute(),
            coco_images=self.coco_images and self.coco_images.absolute(),
        )


def given_tile(px: int | None, overlap: float | None) -> tuple[int, float] | None:
    """The tile as options of a command have it. Raises ValueError for one that no network can see."""
    if px is None:
        if overlap is not None:
            raise ValueError(
                f"--overlap goes with --tile, got --overlap {overlap} alone; add --tile 512, or leave it out"
            )
        return None
    tile = px, 0.25 if overlap is None else overlap
    fault = tile_fault(*tile)
    if fault is not None:
        raise ValueError(f"--tile, --overlap: {fault}")
    return tile


def given_inputs(inputs: Sequence[str], images: Path | None) -> tuple[tuple[str, ...], Path | None]:
    """The inputs, and the folder of COCO files' images, as a command has them; `--images` alone is an input. Raises
    ValueError where nothing is named, or `--images` goes with nothing."""
    if images is not None and not images.is_dir():
        raise ValueError(f"--images must be a folder, got {images}; give the folder that holds the images")
    if images is not None and inputs and not any(text.lower().endswith(".json") for text in inputs):
        raise ValueError(f"--images goes with COCO files, got it beside {', '.join(inputs)}; list the folder with them")
    if images is None and not inputs:
        raise ValueError("at least one input is needed, got none; name images, a folder, a COCO file or a zip")
    return (tuple(inputs), images) if inputs else ((str(images),), None)
