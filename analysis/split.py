"""Split a data set so that scores on it can be trusted, and report how far they can.

    python analysis/split.py --data data.yaml --out split.json --folds 5
    python search/run.py --space convnext.yaml --data data.yaml --set split.file=split.json --set split.fold=0

Writes split.json (train, val, hold-out, folds), split.html (the report) and split.report.json.
Parts that the card gives are kept unless `--carve` names them. Exit code 2 for what the user can correct, and with
--strict for a split with findings. Heavy imports come late, so that --help answers at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trainables.command import DEFAULT_CACHE, DebugOption, errors_to_exit, new_app

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from analysis.dataset.distribution_shift import DistributionShift
    from analysis.dataset.split_quality import SplitQuality
    from trainables.data.cache import Cache
    from trainables.data.index import SegIndex
    from trainables.data.splits.near_duplicates import Hashes

app = new_app()


class Carve(StrEnum):
    val = "val"
    holdout = "holdout"


@dataclass(frozen=True)
class SplitOptions:
    """What decides a split, besides the data."""

    num_folds: int  # 0: none
    carve: tuple[str, ...]  # parts to carve anew although the card gives them: val, holdout
    val_share: float  # of the images, where the part is carved
    holdout_share: float
    seed: int


@app.command()
def main(
    data: Annotated[Path, typer.Option(help="The data card (YAML).")],
    out: Annotated[Path, typer.Option(help="The split file to write (JSON); its report goes beside it.")],
    folds: Annotated[int, typer.Option(help="Also split train and val into so many folds; 0: none.")] = 0,
    carve: Annotated[
        list[Carve] | None, typer.Option(help="Carve this part anew although the card gives it; repeatable.")
    ] = None,
    val_share: Annotated[float, typer.Option(help="Share of the images for val where it is carved.")] = 0.2,
    holdout_share: Annotated[
        float, typer.Option(help="Share of the images for the hold-out where it is carved.")
    ] = 0.2,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the split and the folds.")] = 0,
    strict: Annotated[bool, typer.Option(help="Fail where the split has a finding, instead of reporting it.")] = False,
    backbone: Annotated[str, typer.Option(help="timm model whose frozen features compare val with the test.")] = "",
    cache_dir: Annotated[Path, typer.Option(help="Cache of decoded images.")] = DEFAULT_CACHE,
    debug: DebugOption = False,
) -> None:
    """Write a stratified, grouped split and a report of what it is worth."""
    options = SplitOptions(folds, tuple(part.value for part in carve or ()), val_share, holdout_share, seed)
    with errors_to_exit(debug=debug):
        lines = split_data(data, out, options, strict=strict, backbone=backbone, cache_dir=cache_dir.expanduser())
    typer.echo("\n".join(lines))


def split_data(
    card: Path, out: Path, options: SplitOptions, *, strict: bool, backbone: str, cache_dir: Path
) -> list[str]:
    """Write the split file and its report; returns the summary, line by line.

    Raises ValueError for options or data that give no split, and with `strict` for a split that lacks something.
    """
    if out.suffix != ".json":
        raise ValueError(f"--out must be a .json file, got {out}; e.g. split.json")
    if options.num_folds < 0 or options.num_folds == 1:
        raise ValueError(f"--folds must be 0 (none) or at least 2, got {options.num_folds}")
    from analysis.dataset.split_page import write_report
    from trainables.data.cache import Cache
    from trainables.data.card import read_card
    from trainables.data.reader import read
    from trainables.data.splits.near_duplicates import hash_images
    from trainables.data.splits.split_file import write_split

    index = read(read_card(card))
    cache = Cache.open(index, cache_dir)
    hashes = hash_images([image.image_id for image in index.images], cache.image)
    labelled = [image.image_id for image in index.images if image.role != "unlabelled"]
    pixels = dict(zip(labelled, cache.class_pixels_by_image(labelled), strict=True))
    quality = _make_split(index, options, pixels, hashes)
    if quality.findings and strict:
        findings = "\n".join(quality.findings)
        raise ValueError(f"--strict refuses this split; leave it out to accept the split:\n{findings}")
    out.parent.mkdir(parents=True, exist_ok=True)
    write_split(out, index, quality.split, quality.folds, seed=options.seed)
    shift = _compare_with_test(cache, quality, hashes, seed=options.seed, backbone=backbone)
    write_report(out, cache, quality, pixels, shift)
    return _summary(out, quality, shift)


def _make_split(
    index: SegIndex, options: SplitOptions, pixels: Mapping[str, NDArray[np.int64]], hashes: Hashes
) -> SplitQuality:
    from analysis.dataset.split_quality import assess_split
    from trainables.data.splits.make_split import DecodedFacts, make_folds, make_split
    from trainables.data.splits.near_duplicates import cluster_names

    known = DecodedFacts(pixels, cluster_names(hashes))
    split = make_split(
        index,
        seed=options.seed,
        val_share=options.val_share,
        holdout_share=options.holdout_share,
        known=known,
        carve_again=options.carve,
    )
    folds: tuple[tuple[str, ...], ...] = ()
    notes: tuple[str, ...] = ()
    if options.num_folds:
        folds, notes = make_folds(index, split, options.num_folds, seed=options.seed, known=known)
    return assess_split(index, split, folds, notes, hashes)


def _compare_with_test(
    cache: Cache, quality: SplitQuality, hashes: Hashes, *, seed: int, backbone: str
) -> DistributionShift | str:
    """Val and the folds against the test images, or why they cannot be compared."""
    from analysis.dataset.adversarial_validation import MIN_IMAGES
    from analysis.dataset.distribution_shift import compare_sets
    from analysis.dataset.image_features import BACKBONE
    from trainables.data.splits.near_duplicates import cluster_names

    index, split = cache.index, quality.split
    target = "unlabelled" if index.ids("unlabelled") else "holdout"
    target_ids = index.ids("unlabelled") or (split.holdout_ids if index.ids("holdout") else ())
    if not target_ids:
        return (
            "The card names neither unlabelled images nor a hold-out of its own, so there is no test to compare with."
        )
    if min(len(target_ids), len(split.val_ids)) < MIN_IMAGES:
        sizes = f"{len(split.val_ids)} and {len(target_ids)}"
        return f"A comparison needs {MIN_IMAGES} images of val and of the test, got {sizes}."
    candidates = {"val": split.val_ids, "train": split.train_ids}
    candidates |= {f"fold {f}": ids for f, ids in enumerate(quality.folds)}
    return compare_sets(
        candidates, target, target_ids, cache.image, cluster_names(hashes), seed=seed, backbone=backbone or BACKBONE
    )


def _summary(out: Path, quality: SplitQuality, shift: DistributionShift | str) -> list[str]:
    from analysis.dataset.distribution_shift import sentence

    lines = [f"{one.part}: {one.num_images} images in {one.num_scenes} scenes" for one in quality.parts]
    lines += [f"fold {f}: {len(ids)} images" for f, ids in enumerate(quality.folds)]
    lines += [f"note: {note}" for note in quality.findings]
    lines.append(shift if isinstance(shift, str) else sentence(shift))
    if not isinstance(shift, str):
        lines.append(f"of those tried, {shift.most_alike} looks most like the {shift.target} images")
    return [*lines, f"written: {out}, {out.with_suffix('.html')}, {out.with_suffix('.report.json')}"]


if __name__ == "__main__":
    app()
