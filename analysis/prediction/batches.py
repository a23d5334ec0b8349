"""Batches of images that have one size, planned before the first is decoded.

The plan depends on the images alone, not on which of them are finished nor on how many processes work: a network may
round otherwise in a batch of another size, and a run that was stopped must end with the bytes of one that was not.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from analysis.prediction.inputs import NamedImage
from trainables.files import can_name_file

if TYPE_CHECKING:
    from trainables.data.image_file import DecodedImage

MAX_BATCH_PX = 2**25  # of decoded images, 96 MiB: two batches are held at a time
NUM_THREADS = 4  # they wait for the disk


@dataclass(frozen=True)
class Batch:
    """Images of one size."""

    images: tuple[NamedImage, ...]

    @property
    def names(self) -> list[str]:
        return [image.name for image in self.images]


@dataclass(frozen=True)
class DecodedBatch:
    """The images of a batch that could be read, and why the others could not."""

    images: dict[str, DecodedImage]
    problems: list[str] = field(default_factory=list)

    @classmethod
    def read(cls, batch: Batch) -> DecodedBatch:
        """Decode them one after the other."""
        read = cls({})
        for image in batch.images:
            try:
                read.images[image.name] = image.read()
            except (ValueError, OSError) as error:
                read.problems.append(str(error))
        return read


def plan_batches(images: Sequence[NamedImage], batch_size: int) -> tuple[list[Batch], list[str]]:
    """-> batches of at most `batch_size` images and MAX_BATCH_PX pixels (one image at least), and why the images that
    are in none of them cannot be read."""
    by_size: dict[tuple[int, int], list[NamedImage]] = {}
    problems = []
    with ThreadPoolExecutor(NUM_THREADS) as pool:
        for image, found in zip(images, pool.map(_size_or_problem, images), strict=True):
            if isinstance(found, str):
                problems.append(found)
            else:
                by_size.setdefault(found, []).append(image)
    batches = []
    for (height, width), same in by_size.items():
        most = max(1, min(batch_size, MAX_BATCH_PX // (height * width)))
        batches += [Batch(tuple(same[i : i + most])) for i in range(0, len(same), most)]
    return batches, problems


def _size_or_problem(image: NamedImage) -> tuple[int, int] | str:
    if not can_name_file(image.name):
        return f"{image.name!r}: its name is no UTF-8 text, so that no prediction can be named after it; rename it"
    try:
        return image.size()
    except (ValueError, OSError) as error:
        return str(error)
