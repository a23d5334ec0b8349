"""Split a data set so that scores on it can be trusted, and say how far they can.

    python analysis/split.py --data data.yaml --out split.json --folds 5
    python search/run.py --space convnext.yaml --data data.yaml --set split.file=split.json --set split.fold=0

Enters: a data card. Leaves: split.json (train, val, hold-out, folds), split.html (the report) and split.report.json.
Parts that the card gives are kept unless `--carve` names them. Exit code 2 for what the user can mend, and with
--strict for a split that lacks something. Heavy imports come late, so that --help answers at once.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from analysis.likeness import Likeness
    from trainables.data.cache import Cache
    from trainables.data.hashes import Hashes
    from trainables.data.index import SegIndex, Split

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
NUM_PICTURES = 6
DEFAULT_CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "segsearch"
NUM_FEATURES = 12


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
    debug: Annotated[bool, typer.Option(help="Show tracebacks.")] = False,
) -> None:
    """Write a stratified, grouped split and a report of what it is worth."""
    shares = {"val_share": val_share, "holdout_share": holdout_share}
    carved = tuple(part.value for part in carve or ())
    try:
        lines = split_data(data, out, folds, carved, shares, seed, strict, backbone, cache_dir.expanduser())
    except (ValueError, OSError) as error:
        if debug:
            raise
        typer.secho(f"split: {error}", err=True, fg=typer.colors.RED)
        raise typer.Exit(2) from None
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
    from analysis import split_facts
    from trainables.data.cache import Cache
    from trainables.data.card import read_card
    from trainables.data.coco import read
    from trainables.data.hashes import cluster_names, hash_images
    from trainables.data.split_file import write_split
    from trainables.data.splits import Knowledge, make_folds, make_split

    index = read(read_card(card))
    cache = Cache.open(index, cache_dir)
    hashes = hash_images([image.image_id for image in index.images], cache.image)
    labelled = [image.image_id for image in index.images if image.role != "unlabelled"]
    pixels = dict(zip(labelled, cache.class_pixels_by_image(labelled), strict=True))
    known = Knowledge(pixels, cluster_names(hashes))
    split = make_split(index, seed=seed, **shares, known=known, carve_again=carve)
    folds: tuple[tuple[str, ...], ...] = ()
    fold_notes: tuple[str, ...] = ()
    if num_folds:
        folds, fold_notes = make_folds(index, split, num_folds, seed=seed, known=known)
    facts, twins = split_facts.part_facts(index, split, hashes)
    runs = split_facts.bursts(split_facts.parts_of(split))
    found = [*split.notes, *fold_notes, *split_facts.findings(facts, runs, twins, index.grouped)]
    if found and strict:
        raise ValueError("--strict refuses this split; leave it out to take what could be had:\n" + "\n".join(found))
    out.parent.mkdir(parents=True, exist_ok=True)
    write_split(out, index, split, folds, seed=seed)
    likeness = _likeness(index, cache, split, folds, hashes, seed, backbone)
    _report(out, index, cache, split, folds, found, facts, twins, runs, pixels, likeness)
    return _summary(out, facts, folds, found, likeness)


def _likeness(
    index: SegIndex,
    cache: Cache,
    split: Split,
    folds: tuple[tuple[str, ...], ...],
    hashes: Hashes,
    seed: int,
    backbone: str,
) -> Likeness | str:
    """Val and the folds against the test images, or why there is none."""
    from analysis.adversarial import MIN_IMAGES
    from analysis.image_features import BACKBONE
    from analysis.likeness import judge
    from trainables.data.hashes import cluster_names

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
    return judge(
        candidates, target, target_ids, cache.image, cluster_names(hashes), seed=seed, backbone=backbone or BACKBONE
    )


def _report(
    out: Path,
    index: SegIndex,
    cache: Cache,
    split: Split,
    folds: tuple[tuple[str, ...], ...],
    found: list[str],
    facts: list[Any],
    twins: list[Any],
    runs: list[Any],
    pixels: Mapping[str, Any],
    likeness: Likeness | str,
) -> None:
    """split.html and split.report.json."""
    from analysis import data_charts, pages, split_facts

    parts = split_facts.parts_of(split)
    classes = split_facts.class_table(index, parts, pixels)
    groups = {image.image_id: image.group for image in index.images}
    fold_rows = [
        {
            "name": f"fold {f}",
            "num_images": len(ids),
            "num_groups": len({groups[i] for i in ids}),
            "lacks": [
                r["class"] for r in split_facts.class_table(index, {"fold": ids}, pixels) if not r["images"]["fold"]
            ],
        }
        for f, ids in enumerate(folds)
    ]
    values: dict[str, Any] = {
        "parts": split_facts.as_json(facts),
        "classes": classes,
        "bursts": split_facts.as_json(runs),
        "folds": fold_rows,
        "findings": found,
        "likeness": None if isinstance(likeness, str) else likeness.as_json(),
    }
    pages.write_facts(out.with_suffix(".report.json"), {"data": index.name, "fingerprint": split.fingerprint, **values})
    named = {part: [row["share"][part] for row in classes] for part in parts}
    figures = {"shares": data_charts.bars(index.classes, named, "share of the part's labelled pixels", percent=True)}
    if isinstance(likeness, str):
        values["no_likeness"] = likeness
    else:
        figures |= _likeness_part(values, likeness, cache)
    pairs = [
        {
            **vars(t),
            "uri": pages.photograph(cache.image(t.image_id), 320),
            "train_uri": pages.photograph(cache.image(t.train_id), 320),
        }
        for t in _spread(twins)
    ]
    title = f"Split of {index.name}"
    headline = _headline(found, facts, index.grouped)
    values |= {"title": title, "headline": headline, "grouped": index.grouped, "written": str(out), "pairs": pairs}
    pages.write_page(out.with_suffix(".html"), "split.html.j2", values, figures)


def _likeness_part(values: dict[str, Any], likeness: Likeness, cache: Cache) -> dict[str, str]:
    """The values of the page's last section, and its figure."""
    import numpy as np

    from analysis import data_charts, pages
    from analysis.image_features import FEATURES
    from analysis.likeness import sentence

    main = likeness.main
    by_power = sorted(main.features, key=lambda name: -abs(main.features[name][0].value - 0.5))[:NUM_FEATURES]
    values["features"] = [
        {"name": name, "family": FEATURES[name], "a": main.features[name][1], "b": main.features[name][2]}
        | {"auc": main.features[name][0].value, "low": main.features[name][0].low, "high": main.features[name][0].high}
        for name in by_power
    ]
    order_a, order_b = np.argsort(main.scores_a), np.argsort(-main.scores_b)

    def shown(ids: tuple[str, ...], rows: Any) -> list[dict[str, str]]:
        return [{"name": ids[n], "text": "", "uri": pages.photograph(cache.image(ids[n]), 240)} for n in rows]

    values["least_alike"] = shown(likeness.candidate_ids, order_a[:NUM_PICTURES])
    values["most_alike_images"] = shown(likeness.candidate_ids, order_a[::-1][:NUM_PICTURES])
    values["strangest"] = shown(likeness.target_ids, order_b[:NUM_PICTURES])
    values["likeness_sentence"] = sentence(likeness)
    marks = {**likeness.aucs, **{f"val by {name} alone": auc for name, auc in main.families.items()}}
    return {
        "aucs": data_charts.intervals(
            list(marks), [(auc.value, auc.low, auc.high) for auc in marks.values()], f"AUC against {likeness.target}"
        )
    }


def _spread(twins: list[Any]) -> list[Any]:
    """The nearest pairs, each train image once: a burst would fill the page with one scene."""
    seen: set[str] = set()
    kept: list[Any] = []
    for twin in twins:
        if twin.train_id not in seen and len(kept) < NUM_PICTURES:
            seen.add(twin.train_id)
            kept.append(twin)
    return kept


def _headline(found: list[str], facts: list[Any], grouped: bool) -> str:
    val = next(one for one in facts if one.part == "val")
    worst = next((note for note in found if note.startswith(("val shows", "every group of val"))), None)
    if worst:
        return f"do not trust this val: {worst}"
    where = f"{val.num_groups} group{'' if val.num_groups == 1 else 's'} and " if grouped else ""
    scenes = f"{val.num_images} images of val in {where}{val.num_scenes} scene{'' if val.num_scenes == 1 else 's'}"
    apart = not val.twins_in_train and not (grouped and val.groups_in_train)
    return f"{scenes}{', none of them in train' if apart else ''}"


def _summary(
    out: Path, facts: list[Any], folds: tuple[tuple[str, ...], ...], found: list[str], likeness: Likeness | str
) -> list[str]:
    from analysis.likeness import sentence

    lines = [f"{one.part}: {one.num_images} images in {one.num_scenes} scenes" for one in facts]
    lines += [f"fold {f}: {len(ids)} images" for f, ids in enumerate(folds)]
    lines += [f"note: {note}" for note in found]
    lines.append(likeness if isinstance(likeness, str) else sentence(likeness))
    if not isinstance(likeness, str):
        lines.append(f"of those tried, {likeness.most_alike} looks most like the {likeness.target} images")
    return [*lines, f"written: {out}, {out.with_suffix('.html')}, {out.with_suffix('.report.json')}"]


if __name__ == "__main__":
    app()
