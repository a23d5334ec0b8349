"""Split a data set so that scores on it can be trusted, and say how far they can.

    python analysis/split.py --data data.yaml --out split.json --folds 5
    python search/run.py --space convnext.yaml --data data.yaml --set split.file=split.json --set split.fold=0

Writes split.json (train, val, hold-out, folds), split.html (the report) and split.report.json.
Parts that the card gives are kept unless `--carve` names them. Exit code 2 for what the user can mend, and with
--strict for a split that lacks something. Heavy imports come late, so that --help answers at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from analysis.command import DEFAULT_CACHE, DebugOption, errors_to_exit, new_app

if TYPE_CHECKING:
    from analysis.dataset.distribution_shift import DistributionShift
    from trainables.data.cache import Cache
    from trainables.data.index import SegIndex, Split
    from trainables.data.splits.near_duplicates import Hashes
from analysis.dataset.split_page import write_report

app = new_app()


class Carve(StrEnum):
    val = "val"
    holdout = "holdout"


@app.command()
def main(
    data: Annotated[Path, typer.Option(help="The data card (YAML).")],
    out: Annotated[Path, typer.Option(help="The split file to write (JSON); its report goes beside it.")],
    folds: Annotated[int, typer.Option(help="Also deal train and val into so many folds; 0: none.")] = 0,
    carve: Annotated[
        list[Carve] | None, typer.Option(help="Carve this part anew although the card gives it; may be repeated.")
    ] = None,
    val_share: Annotated[float, typer.Option(help="Share of the images for val where it is carved.")] = 0.2,
    holdout_share: Annotated[
        float, typer.Option(help="Share of the images for the hold-out where it is carved.")
    ] = 0.2,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    strict: Annotated[bool, typer.Option(help="Refuse a split that lacks something instead of saying so.")] = False,
    backbone: Annotated[str, typer.Option(help="timm model whose frozen features compare val with the test.")] = "",
    cache_dir: Annotated[Path, typer.Option(help="Where decoded data is kept.")] = DEFAULT_CACHE,
    debug: DebugOption = False,
) -> None:
    """Write a stratified, grouped split and a report of what it is worth."""
    shares = {"val_share": val_share, "holdout_share": holdout_share}
    carved = tuple(part.value for part in carve or ())
    with errors_to_exit(debug=debug):
        lines = split_data(data, out, folds, carved, shares, seed, strict, backbone, cache_dir.expanduser())
    typer.echo("\n".join(lines))


def split_data(
    card: Path,
    out: Path,
    num_folds: int,
    carve: tuple[str, ...],
    shares: Mapping[str, float],
    seed: int,
    strict: bool,
    backbone: str,
    cache_dir: Path,
) -> list[str]:
    """Write the split file and its report; the summary, a line each. ValueError for what the user can mend."""
    if out.suffix != ".json":
        raise ValueError(f"--out must be a .json file, got {out}; e.g. split.json")
    if num_folds < 0 or num_folds == 1:
        raise ValueError(f"--folds must be 0 (none) or at least 2, got {num_folds}")
    from analysis.dataset import split_quality
    from trainables.data.cache import Cache
    from trainables.data.card import read_card
    from trainables.data.reader import read
    from trainables.data.splits.make_split import DecodedFacts, make_folds, make_split
    from trainables.data.splits.near_duplicates import cluster_names, hash_images
    from trainables.data.splits.split_file import write_split

    index = read(read_card(card))
    cache = Cache.open(index, cache_dir)
    hashes = hash_images([image.image_id for image in index.images], cache.image)
    labelled = [image.image_id for image in index.images if image.role != "unlabelled"]
    pixels = dict(zip(labelled, cache.class_pixels_by_image(labelled), strict=True))
    known = DecodedFacts(pixels, cluster_names(hashes))
    split = make_split(index, seed=seed, **shares, known=known, carve_again=carve)
    folds: tuple[tuple[str, ...], ...] = ()
    fold_notes: tuple[str, ...] = ()
    if num_folds:
        folds, fold_notes = make_folds(index, split, num_folds, seed=seed, known=known)
    facts, twins = split_quality.part_facts(index, split, hashes)
    runs = split_quality.bursts(split_quality.parts_of(split))
    found = [*split.notes, *fold_notes, *split_quality.findings(facts, runs, twins, index.grouped)]
    if found and strict:
        raise ValueError("--strict refuses this split; leave it out to take what could be had:\n" + "\n".join(found))
    out.parent.mkdir(parents=True, exist_ok=True)
    write_split(out, index, split, folds, seed=seed)
    likeness = _likeness(index, cache, split, folds, hashes, seed, backbone)
    write_report(out, index, cache, split, folds, found, facts, twins, runs, pixels, likeness)
    return _summary(out, facts, folds, found, likeness)


def _likeness(
    index: SegIndex,
    cache: Cache,
    split: Split,
    folds: tuple[tuple[str, ...], ...],
    hashes: Hashes,
    seed: int,
    backbone: str,
) -> DistributionShift | str:
    """Val and the folds against the test images, or why there is none."""
    from analysis.dataset.adversarial_validation import MIN_IMAGES
    from analysis.dataset.distribution_shift import compare_sets
    from analysis.dataset.image_features import BACKBONE
    from trainables.data.splits.near_duplicates import cluster_names

    target = "unlabelled" if index.ids("unlabelled") else "holdout"
    target_ids = index.ids("unlabelled") or (split.holdout_ids if index.ids("holdout") else ())
    if not target_ids:
        return (
            "The card names neither unlabelled images nor a hold-out of its own, so there is no test to compare with."
        )
    if min(len(target_ids), len(split.val_ids)) < MIN_IMAGES:
        sizes = f"{len(split.val_ids)} and {len(target_ids)}"
        return f"A comparison needs {MIN_IMAGES} images of val and of the test, got {sizes}."
    candidates = {"val": split.val_ids, "train": split.train_ids} | {f"fold {f}": ids for f, ids in enumerate(folds)}
    return compare_sets(
        candidates, target, target_ids, cache.image, cluster_names(hashes), seed=seed, backbone=backbone or BACKBONE
    )


def _summary(
    out: Path, facts: list[Any], folds: tuple[tuple[str, ...], ...], found: list[str], likeness: DistributionShift | str
) -> list[str]:
    from analysis.dataset.distribution_shift import sentence

    lines = [f"{one.part}: {one.num_images} images in {one.num_scenes} scenes" for one in facts]
    lines += [f"fold {f}: {len(ids)} images" for f, ids in enumerate(folds)]
    lines += [f"note: {note}" for note in found]
    lines.append(likeness if isinstance(likeness, str) else sentence(likeness))
    if not isinstance(likeness, str):
        lines.append(f"of those tried, {likeness.most_alike} looks most like the {likeness.target} images")
    return [*lines, f"written: {out}, {out.with_suffix('.html')}, {out.with_suffix('.report.json')}"]


if __name__ == "__main__":
    app()
