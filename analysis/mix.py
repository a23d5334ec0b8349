"""Write mixed images of a data set's training part to disk: images, COCO, a card, a preview.

    python analysis/mix.py --data data.yaml --out DIR [--num-images 500] [--kind mosaic --kind copy_paste]

Enters: a data card. Leaves, in DIR: `images/*.jpg`; `train.json`, COCO with one compressed RLE for each class of an
image, so that painting it gives the label pixel for pixel; `data.yaml`; `mix.json` with the sources of each image;
`preview.jpg`. Sources are the images that a run with the same seed and shares, or split file and fold, trains on: none
of its validation or hold-out. DIR appears whole or not at all. The same mixing goes on inside the loader, fresh each
epoch, under `augmentation` in a space.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from analysis.command import DebugOption, errors_to_exit, new_app

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from trainables.data.index import SegIndex

JPEG_QUALITY = 95
PREVIEW_IMAGES, PREVIEW_PX, GAP_PX = 24, 192, 8
IGNORED = "ignored"  # a category for the pixels that count for nothing
app = new_app()


class Kind(StrEnum):
    mosaic = "mosaic"
    cutmix = "cutmix"
    classmix = "classmix"
    copy_paste = "copy_paste"


@app.command()
def main(
    data: Annotated[Path, typer.Option(help="A data card (YAML).")],
    out: Annotated[Path, typer.Option(help="A folder that does not exist yet.")],
    num_images: Annotated[int, typer.Option(min=1, help="Mixed images to write.")] = 200,
    kind: Annotated[list[Kind] | None, typer.Option(help="Repeatable; default: mosaic and copy_paste in turn.")] = None,
    size_px: Annotated[int, typer.Option(min=32, help="Side of a mixed image.")] = 512,
    rare_class_weight: Annotated[
        float, typer.Option(min=0, max=2, help="0: as they come; 1: rare ones made up for.")
    ] = 1.0,
    scale_min: Annotated[
        float, typer.Option(min=0.05, max=4)
    ] = 1.0,  # below it, images as large as size_px leave a padded rim
    scale_max: Annotated[float, typer.Option(min=0.05, max=4)] = 1.5,
    seed: Annotated[int, typer.Option(min=0, help="Of the split and of the mixing.")] = 0,
    val_share: Annotated[float, typer.Option(help="As in the run that is to use the images.")] = 0.2,
    holdout_share: Annotated[float, typer.Option(help="As in the run that is to use the images.")] = 0.2,
    split: Annotated[Path | None, typer.Option(help="The split file of that run, where it takes one.")] = None,
    fold: Annotated[int | None, typer.Option(min=0, help="The fold of that file which the run tunes on.")] = None,
    cache_dir: Annotated[Path | None, typer.Option(help="Decoded images; default: gone when done.")] = None,
    debug: DebugOption = False,
) -> None:
    """Write an off-line set of mixed training images."""
    kinds = [each.value for each in kind or [Kind.mosaic, Kind.copy_paste]]
    settings = {"size_px": size_px, "rare": rare_class_weight, "scale_min": scale_min, "scale_max": scale_max}
    parts = {"val_share": val_share, "holdout_share": holdout_share, "file": split, "fold": fold}
    with errors_to_exit(debug=debug), tempfile.TemporaryDirectory(prefix="segsearch-mix-") as scratch:
        counts = write_mixed(data, out, kinds, num_images, settings, parts, seed, cache_dir or Path(scratch))
    typer.echo(f"{num_images} mixed images in {out}; images that show each class:")
    for name, count in counts.items():
        typer.echo(f"  {name:<24}{count:>6}")


def write_mixed(
    card: Path,
    out: Path,
    kinds: list[str],
    num_images: int,
    settings: dict[str, Any],
    parts: dict[str, Any],
    seed: int,
    cache_dir: Path,
) -> dict[str, int]:
    """Mix and write; how many of the new images show each class. ValueError for a DIR that is there already."""
    from trainables.data.augment.mix_sources import Sources
    from trainables.data.augment.mixing import Mix
    from trainables.data.augment.pipeline import reseed
    from trainables.data.cache import Cache
    from trainables.data.card import read_card
    from trainables.data.coco import read
    from trainables.data.splits.make_split import look, make_split
    from trainables.data.splits.split_file import read_split
    from trainables.recipe.augmentation import Augmentation

    if out.exists():
        raise ValueError(f"--out must name a folder that does not exist yet, got {out}; remove it or name another")
    index = read(read_card(card))
    cache = Cache.open(index, cache_dir)
    if parts.get("file") is not None:
        train_ids = read_split(parts["file"], index, parts.get("fold")).train_ids
    elif parts.get("fold") is not None:
        raise ValueError(f"--fold {parts['fold']} needs a file that has folds; give --split split.json as well")
    else:
        shares = {name: parts[name] for name in ("val_share", "holdout_share")}
        train_ids = make_split(index, seed=seed, **shares, known=look(index, cache)).train_ids
    size_px = settings["size_px"]
    if size_px % 32:
        raise ValueError(f"--size-px must be divisible by 32, got {size_px}; use {size_px // 32 * 32}")
    pipelines = {}
    for kind in kinds:
        mixing = {kind: {"p": 1.0, "rare_class_weight": settings["rare"]}}
        scales = {key: settings[key] for key in ("scale_min", "scale_max")}
        aug = Augmentation.model_validate({"crop_px": size_px, "hflip_p": 0, "colour_p": 0, **scales, **mixing})
        pipelines[kind] = (_pipeline(aug, Mix.of(aug)), Sources(cache, train_ids, aug))
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}-"))
    try:
        writer = Writer(temporary, index, card.stem if card.stem != "data" else index.name)
        for number in range(num_images):
            kind = kinds[number % len(kinds)]
            pipeline, sources = pipelines[kind]
            reseed(pipeline, seed, number)
            position = sources.draw(pipeline.py_random, settings["rare"])
            image_id = sources.ids[position]
            given = {"image": cache.image(image_id), "mask": cache.label(image_id)}
            mixed = pipeline(**given, sources=sources, position=position)
            used = [image_id, *(sources.ids[each] for each in pipeline.transforms[-1].used)]
            writer.add(f"{kind}-{number:06d}", mixed["image"], mixed["mask"], kind, used)
        counts = writer.close(seed, settings)
        temporary.chmod(0o755)
        temporary.replace(out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return counts


def _pipeline(aug: Any, mix: Any) -> Any:
    """A crop at a random scale, then the mixing: colours and geometry are the loader's, fresh each epoch."""
    import albumentations

    from trainables.data.augment.crop import ScaledCrop

    return albumentations.Compose([ScaledCrop(aug.crop_px, None, aug.scale_min, aug.scale_max), mix])


class Writer:
    """The files of an off-line set, filled image by image; only small previews are kept in memory."""

    def __init__(self, folder: Path, index: SegIndex, name: str) -> None:
        self.folder, self.index, self.name = folder, index, name
        first = 1 if index.background else 0
        self.categories = {k: k + 1 - first for k in range(first, index.num_classes)} | {
            index.ignore_index: index.num_classes + 1 - first
        }
        self.images: list[dict[str, Any]] = []
        self.annotations: list[dict[str, Any]] = []
        self.lineage: list[dict[str, Any]] = []
        self.previews: list[NDArray[np.uint8]] = []
        self.counts = dict.fromkeys(index.classes, 0)
        (folder / "images").mkdir()

    def add(self, stem: str, image: NDArray[np.uint8], label: NDArray[np.uint8], kind: str, used: list[str]) -> None:
        """One mixed image (h,w,3) with its label (h,w)."""
        import cv2
        import numpy as np

        file_name = f"images/{stem}.jpg"
        done, encoded = cv2.imencode(
            ".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
        )
        assert done, "OpenCV writes JPEG"
        (self.folder / file_name).write_bytes(encoded.tobytes())
        height, width = label.shape
        entry = {"id": len(self.images), "file_name": file_name, "height": height, "width": width}
        self.images.append(entry)
        self.lineage.append({"file_name": file_name, "kind": kind, "sources": used})
        for k in np.unique(label).tolist():
            if k < self.index.num_classes:
                self.counts[self.index.classes[k]] += 1
            if k in self.categories:
                self.annotations.append(self._annotation(label == k, k))
        if len(self.previews) < PREVIEW_IMAGES:
            self.previews.append(_preview(image, label, self.index))

    def _annotation(self, mask: NDArray[np.bool_], class_index: int) -> dict[str, Any]:
        import numpy as np
        from pycocotools import mask as coco_mask

        rle = coco_mask.encode(np.asfortranarray(mask, np.uint8))
        return {
            "id": len(self.annotations),
            "image_id": len(self.images) - 1,
            "category_id": self.categories[class_index],
            "segmentation": {"size": rle["size"], "counts": rle["counts"].decode("ascii")},
            "area": int(mask.sum()),
            "bbox": [float(side) for side in coco_mask.toBbox(rle)],
            "iscrowd": 0,
        }

    def close(self, seed: int, settings: dict[str, Any]) -> dict[str, int]:
        """Write what describes the images; the number of images that show each class."""
        import cv2
        import yaml

        names = {k: self.index.classes[k] if k < self.index.num_classes else IGNORED for k in self.categories}
        ignores = any(each["category_id"] == self.categories[self.index.ignore_index] for each in self.annotations)
        kept = [k for k in self.categories if ignores or k != self.index.ignore_index]
        coco = {
            "info": {"description": f"mixed training images of {self.name}"},
            "licenses": [{"id": n, "name": name, "url": ""} for n, name in enumerate(self.index.licences)],
            "images": self.images,
            "categories": [{"id": self.categories[k], "name": names[k]} for k in kept],
            "annotations": self.annotations,
        }
        (self.folder / "train.json").write_text(json.dumps(coco), encoding="utf-8")
        card = {"name": f"{self.name}-mixed", "train": "train.json", "background": self.index.background}
        card |= {"ignore": [IGNORED]} if ignores else {}
        (self.folder / "data.yaml").write_text(yaml.safe_dump(card, sort_keys=False), encoding="utf-8")
        about = {"seed": seed, **settings, "data_fingerprint": self.index.fingerprint, "images": self.lineage}
        (self.folder / "mix.json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
        cv2.imwrite(str(self.folder / "preview.jpg"), cv2.cvtColor(_sheet(self.previews), cv2.COLOR_RGB2BGR))
        return self.counts


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
