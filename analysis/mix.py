"""Write mixed images of a data set's training part to disk: images, COCO, a card, a preview.

    python analysis/mix.py --data data.yaml --out DIR [--num-images 500] [--kind mosaic --kind copy_paste]

Writes to DIR: `images/*.jpg`; `train.json`, COCO with one compressed RLE for each class of an
image, so that painting it gives the label pixel for pixel; `data.yaml`; `mix.json` with the sources of each image;
`preview.jpg`. Sources are the images that a run with the same seed and shares, or split file and fold, trains on: none
of its validation or hold-out. DIR appears whole or not at all. The same mixing goes on inside the loader, fresh each
epoch, under `augmentation` in a space.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trainables.command import DebugOption, errors_to_exit, new_app
from trainables.files import folder_made_whole

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from trainables.data.augment.offline_mix import MixSettings
    from trainables.data.cache import Cache
    from trainables.data.index import SegIndex

PREVIEW_IMAGES, PREVIEW_PX, GAP_PX = 24, 192, 8
app = new_app()


class Kind(StrEnum):
    mosaic = "mosaic"
    cutmix = "cutmix"
    classmix = "classmix"
    copy_paste = "copy_paste"


@dataclass(frozen=True)
class TrainPart:
    """Which images a run trains on: by the shares that it carves, or by its split file."""

    val_share: float
    holdout_share: float
    split_file: Path | None = None
    fold: int | None = None  # of the split file

    def image_ids(self, index: SegIndex, cache: Cache, seed: int) -> tuple[str, ...]:
        """The ids of the training images. Raises ValueError where the data has no such split, or no such fold."""
        from trainables.data.splits.make_split import decode_facts, make_split
        from trainables.data.splits.split_file import read_split

        if self.split_file is not None:
            return read_split(self.split_file, index, self.fold).train_ids
        if self.fold is not None:
            raise ValueError(f"--fold {self.fold} needs a file that has folds; give --split split.json as well")
        known = decode_facts(index, cache)
        split = make_split(index, seed=seed, val_share=self.val_share, holdout_share=self.holdout_share, known=known)
        return split.train_ids


@app.command()
def main(
    data: Annotated[Path, typer.Option(help="A data card (YAML).")],
    out: Annotated[Path, typer.Option(help="A folder that does not exist yet.")],
    num_images: Annotated[int, typer.Option(min=1, help="Mixed images to write.")] = 200,
    kind: Annotated[list[Kind] | None, typer.Option(help="Repeatable; default: mosaic and copy_paste in turn.")] = None,
    size_px: Annotated[int, typer.Option(min=32, help="Side of a mixed image.")] = 512,
    rare_class_weight: Annotated[
        float, typer.Option(min=0, max=2, help="0: classes as they occur; 1: make up for rare classes.")
    ] = 1.0,
    scale_min: Annotated[
        float, typer.Option(min=0.05, max=4, help="Smallest scale; below 1, an image of size_px leaves a padded rim.")
    ] = 1.0,
    scale_max: Annotated[float, typer.Option(min=0.05, max=4, help="Largest scale.")] = 1.5,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the split and of the mixing.")] = 0,
    val_share: Annotated[float, typer.Option(help="As in the run that is to use the images.")] = 0.2,
    holdout_share: Annotated[float, typer.Option(help="As in the run that is to use the images.")] = 0.2,
    split: Annotated[Path | None, typer.Option(help="The split file of that run, if it has one.")] = None,
    fold: Annotated[int | None, typer.Option(min=0, help="The fold of that file which is the run's val.")] = None,
    cache_dir: Annotated[
        Path | None, typer.Option(help="Cache of decoded images; default: a temporary folder.")
    ] = None,
    debug: DebugOption = False,
) -> None:
    """Write an off-line set of mixed training images."""
    from trainables.data.augment.offline_mix import MixSettings

    kinds = [each.value for each in kind or [Kind.mosaic, Kind.copy_paste]]
    settings = MixSettings(seed, size_px, rare_class_weight, scale_min, scale_max)
    sources = TrainPart(val_share, holdout_share, split, fold)
    with errors_to_exit(debug=debug), tempfile.TemporaryDirectory(prefix="segsearch-mix-") as scratch:
        counts = write_mixed(data, out, kinds, num_images, settings, sources, cache_dir or Path(scratch))
    typer.echo(f"{num_images} mixed images in {out}; images that show each class:")
    for name, count in counts.items():
        typer.echo(f"  {name:<24}{count:>6}")


def write_mixed(
    card: Path,
    out: Path,
    kinds: list[str],
    num_images: int,
    settings: MixSettings,
    sources: TrainPart,
    cache_dir: Path,
) -> dict[str, int]:
    """Mix and write the images; returns the number of them that show each class.

    Raises ValueError where `out` exists, and for settings or data that give no images.
    """
    import cv2

    from trainables.data.augment.offline_mix import OfflineSet, mixed_images
    from trainables.data.cache import Cache
    from trainables.data.card import read_card
    from trainables.data.reader import read

    if out.exists():
        raise ValueError(f"--out must name a folder that does not exist yet, got {out}; remove it or name another")
    if settings.size_px % 32:
        lower = settings.size_px // 32 * 32
        raise ValueError(f"--size-px must be divisible by 32, got {settings.size_px}; use {lower}")
    index = read(read_card(card))
    cache = Cache.open(index, cache_dir)
    train_ids = sources.image_ids(index, cache, settings.seed)
    with folder_made_whole(out) as temporary:
        written = OfflineSet(temporary, index, card.stem if card.stem != "data" else index.name)
        previews: list[NDArray[np.uint8]] = []
        for mixed in mixed_images(cache, train_ids, kinds, settings, num_images):
            written.add(mixed)
            if len(previews) < PREVIEW_IMAGES:
                previews.append(_preview(mixed.image, mixed.label, index))
        cv2.imwrite(str(temporary / "preview.jpg"), cv2.cvtColor(_sheet(previews), cv2.COLOR_RGB2BGR))
        return written.close(settings)


def _preview(image: NDArray[np.uint8], label: NDArray[np.uint8], index: SegIndex) -> NDArray[np.uint8]:
    """Image beside painted label, small, with a white rim to the right and below."""
    import cv2
    import numpy as np

    from analysis.report.palette import paint, palette

    painted = paint(label, palette(index.num_classes, background=index.background))
    size = (PREVIEW_PX, PREVIEW_PX)
    pair = (
        cv2.resize(image, size, interpolation=cv2.INTER_AREA),
        cv2.resize(painted, size, interpolation=cv2.INTER_NEAREST),
    )
    white = (255, 255, 255)
    framed = cv2.copyMakeBorder(np.hstack(pair), 0, GAP_PX, 0, GAP_PX, cv2.BORDER_CONSTANT, value=white)
    return np.asarray(framed, np.uint8)


def _sheet(previews: list[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Previews in rows of three, on white."""
    import numpy as np

    columns = min(3, len(previews))
    rows = -(-len(previews) // columns)
    blank = np.full_like(previews[0], 255)
    cells = [*previews, *[blank] * (rows * columns - len(previews))]
    return np.vstack([np.hstack(cells[r * columns : (r + 1) * columns]) for r in range(rows)])


if __name__ == "__main__":
    app()
