"""Ranks suspect labels from the out-of-sample logits of finished runs."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from trainables.plain_json import read_object

if TYPE_CHECKING:
    from analysis.label_errors.confident_learning import Float
    from trainables.data.index import SegIndex
    from trainables.logits.store import LogitStore

REMEDY = "give the folder of a run"


def rank_suspects(
    runs: list[Path], folders: list[Path], data: Path | None, out: Path, top: int, cache_dir: Path
) -> list[str]:
    """Write suspects.html, .csv and .json to `out`; returns the summary, line by line.

    It judges the val images of `runs` (or of folders of such) and of `folders` of val logits, by models that did not
    train on them; the page shows the first `top` suspects. Raises ValueError for logits of other data, of the hold-out,
    or of images that their model trained on.
    """
    import numpy as np

    from analysis.label_errors.confident_learning import class_confidence, find_suspects
    from analysis.label_errors.corrections import csv_rows
    from analysis.label_errors.page import caveats_of, headline, write_suspects
    from analysis.report.html import write_facts, write_text
    from analysis.voting.probabilities import probabilities
    from trainables.data.cache import Cache
    from trainables.data.card import read_card
    from trainables.data.reader import read

    runs = [one for folder in runs for one in _runs_in(folder)]
    if not runs and not folders:
        raise ValueError("suspects are ranked by out-of-sample predictions, got none; give --run DIR or --logits DIR")
    card = data or (_card_of(runs[0]) if runs else Path())
    if not card.is_file():
        raise ValueError(f"the data card must be a file, got {str(card)!r}; give --data data.yaml")
    index = read(read_card(card))
    stores = [store for folder in runs for store in _stores_of_run(folder)] + [_store(folder) for folder in folders]
    holders = _holders(stores, index)
    cache = Cache.open(index, cache_dir)
    ids = [image.image_id for image in index.images if image.image_id in holders]

    def predicted(image_id: str) -> Float:
        maps = [probabilities(store, store.views, image_id) for store in holders[image_id]]
        total: Float = np.add.reduce(maps) / np.float32(len(maps))
        return total

    confidence = class_confidence(index, ids, predicted, cache.label)
    ranking = find_suspects(index, ids, predicted, cache.label, confidence)
    kinds = Counter(s.kind for s in ranking.suspects)
    write_text(out / "suspects.csv", csv_rows(ranking.suspects))
    facts = {
        "data": index.name,
        "headline": headline(ranking),
        "miou": round(ranking.miou, 4),
        "num_images": len(ids),
        "counts": dict(kinds),
        "class_confidence": dict(zip(index.classes, (round(float(t), 4) for t in confidence), strict=True)),
        "images": {i: round(score, 4) for i, score in sorted(ranking.image_scores.items(), key=lambda item: -item[1])},
    }
    write_facts(out / "suspects.json", facts)
    caveats = caveats_of(ranking, len(stores))
    write_suspects(out, card, cache, ranking, predicted, caveats, top)
    said = f"{kinds['relabel']} to relabel, {kinds['remove']} to remove, {kinds['add']} to add"
    head = [
        f"{len(ids)} images judged by models of mIoU {ranking.miou:.2f}: {said}",
        *(f"note: {caveat}" for caveat in caveats),
    ]
    return [*head, f"written: {out / 'suspects.html'}, {out / 'suspects.csv'}"]


def _runs_in(folder: Path) -> list[Path]:
    """The folder itself where it is a run, else the runs that lie in it, if any."""
    inside = [] if (folder / "run.json").is_file() else sorted(found.parent for found in folder.glob("*/run.json"))
    return inside or [folder]


def _stores_of_run(folder: Path) -> list[LogitStore]:
    """Val logits of the run's candidates. Raises ValueError where an image of them was trained on."""
    listed = read_object(folder / "data.json", REMEDY).get("train")
    if not isinstance(listed, list) or not all(isinstance(image_id, str) for image_id in listed):
        raise ValueError(f"{folder / 'data.json'} must list the images under train, got {listed!r:.60}; {REMEDY}")
    trained = set(listed)
    found = [_store(each) for each in sorted((folder / "logits").glob("*/val"))]
    if not found:
        raise ValueError(f"{folder} has no logits of val; let its logits stage finish, or resume the run")
    for store in found:
        seen = set() if store.header.lineage else trained & set(store.image_ids)  # a lineage is checked by the store
        if seen:
            raise ValueError(
                f"{store.folder} has image {min(seen)!r}, which its model trained on; write the logits again"
            )
    return found


def _store(folder: Path) -> LogitStore:
    from trainables.logits.store import LogitStore

    store = LogitStore(folder)
    if store.header.split != "val":
        raise ValueError(f"{folder} has logits of the {store.header.split}, which stays sealed; give those of val")
    return store


def _holders(stores: list[LogitStore], index: SegIndex) -> dict[str, list[LogitStore]]:
    """image_id -> the stores that have it. Raises ValueError for stores of other data."""
    known = {image.image_id for image in index.images if image.role != "unlabelled"}
    holders: dict[str, list[LogitStore]] = {}
    for store in stores:
        header = store.header
        if header.classes != index.classes or header.data_fingerprint != index.fingerprint:
            raise ValueError(
                f"{store.folder} was written for another state of the data ({header.data_fingerprint}) than the card's "
                f"({index.fingerprint}); name the card that the run was started with"
            )
        for image_id in store.image_ids:
            if image_id not in known:
                raise ValueError(f"{store.folder} has image {image_id!r}, which is not in the data; name its card")
            holders.setdefault(image_id, []).append(store)
    return holders


def _card_of(run: Path) -> Path:
    card = read_object(run / "run.json", REMEDY).get("card")
    if not isinstance(card, str):
        raise ValueError(f"{run / 'run.json'} must name the data card, got {card!r:.60}; {REMEDY}")
    return Path(card)
