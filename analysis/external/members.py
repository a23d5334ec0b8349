"""The ensemble stage alone: members that any tool predicted, labels from a data card, a verdict. Three calls:

    labels = read_labels(Path("data.yaml"))
    members = collect([Path("A"), Path("B")], labels, Path("out"))
    result = judge_members(members, Path("out"), EnsembleOptions(), opened_at="2026-01-31T12:00:00+00:00")

Writes ensemble.json, confusions.safetensors and the members' logits as shards. The card's val fits and its hold-out
judges; with members of folds (`folds`) all images outside the hold-out fit. Where members predicted images of
one part only, half of these (whole groups) are set aside as the hold-out.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np

from analysis.ensembling.fit import fit_ensemble
from analysis.ensembling.judge_on_holdout import Provenance
from analysis.ensembling.options import EnsembleOptions
from analysis.ensembling.result import EnsembleResult, HoldoutOpening
from analysis.external.folds import MemberReader, fold_folders
from analysis.external.predictions import ExternalPrediction, names_of
from analysis.voting.executor import LocalExecutor, Say, silent
from analysis.voting.labelled_logits import LabelledLogits
from analysis.voting.votes import Labels
from trainables.data.card import read_card
from trainables.data.index import SegIndex, Split
from trainables.data.label_sources import label_source
from trainables.data.reader import read
from trainables.logits.shard_format import LogitHeader
from trainables.logits.store import LogitStore, LogitWriter

SplitName = Literal["val", "holdout"]


class RasterLabels:
    """Labels of a data card's images, painted or decoded when they are asked for."""

    def __init__(self, index: SegIndex) -> None:
        self.index = index
        self._records = index.by_id()
        self.label = lru_cache(maxsize=64)(self._paint)

    def _paint(self, image_id: str) -> Labels:
        return label_source(self.index, self._records[image_id]).label()  # (H,W)

    def size(self, image_id: str) -> tuple[int, int]:
        record = self._records[image_id]
        return record.height, record.width


@dataclass(frozen=True)
class Members:
    """What is judged: the images that rules are fitted on and those that judge them, notes on how they were split, and
    the number of folds whose models predicted the former (0: one model each)."""

    val: LabelledLogits
    holdout: LabelledLogits
    notes: tuple[str, ...]
    folds: int = 0


def read_labels(card: Path) -> RasterLabels:
    """Labels by a data card. Raises DataProblems with everything that is wrong with the data."""
    return RasterLabels(read(read_card(card)))


def collect(
    folders: Sequence[Path],
    labels: RasterLabels,
    out: Path,
    *,
    seed: int = 0,
    allow_missing: bool = False,
    say: Say = silent,
) -> Members:
    """Every member's logits, written as shards under `out`/logits, and the split of the images that all of them have.

    Raises ValueError, naming folder and images, where classes differ, arrays are broken, two folders have one name,
    some members have folds and some have none, or an image is in one member and not in another; with `allow_missing`
    such images are left out, and said.
    """
    names = [folder.resolve().name for folder in folders]
    if not names or len(set(names)) < len(names):
        raise ValueError(f"members need folders of different names, got {', '.join(names) or 'none'}; rename one")
    index = labels.index
    num_folds = _num_folds(folders)
    scored = [record.image_id for record in index.images if record.role != "unlabelled"]
    sealed = frozenset(record.image_id for record in index.images if record.role == "holdout")
    reader = MemberReader(index.classes, names_of(scored), labels.size, sealed, allow_missing)
    have = {name: _ids_of(folder, reader, say) for name, folder in zip(names, folders, strict=True)}
    common = _common(have, allow_missing, say)
    split = _split(index, [image_id for image_id in scored if image_id in common], num_folds > 0, seed, say)
    part_of: dict[str, SplitName] = dict.fromkeys(split.val_ids, "val")
    part_of |= dict.fromkeys(split.holdout_ids, "holdout")
    for name, folder in zip(names, folders, strict=True):
        say(f"reading {folder}")
        _import(reader.read(folder), name, labels, split, part_of, out)
    val, holdout = (
        LabelledLogits.of([LogitStore(out / "logits" / name / part) for name in names], ids, labels, index)
        for part, ids in (("val", split.val_ids), ("holdout", split.holdout_ids))
    )
    return Members(val, holdout, split.notes, num_folds)


def judge_members(
    members: Members,
    out: Path,
    options: EnsembleOptions,
    *,
    opened_at: str,
    seed: int = 0,
    say: Say = silent,
) -> EnsembleResult:
    """Fits, cross-fits and judges every rule; returns what ensemble.json holds."""
    opening = HoldoutOpening(at=opened_at, by="analysis/ensemble.py")
    provenance = Provenance(opening, members.notes, folds=members.folds)
    executor = LocalExecutor(say=say)
    return fit_ensemble(members.val, members.holdout, options, provenance, out, seed=seed, executor=executor)


def _num_folds(folders: Sequence[Path]) -> int:
    """The most folds of any member; 0 where none has folds."""
    num = {folder: len(fold_folders(folder)) for folder in folders}
    without = [str(folder) for folder, count in num.items() if not count]
    if without and len(without) < len(folders):
        raise ValueError(
            f"all members must have folders fold_0, fold_1, ..., or none, got none in {', '.join(without)}; predict "
            "with one model per fold there too, or leave the folds out of all"
        )
    return max(num.values())


def _ids_of(folder: Path, reader: MemberReader, say: Say) -> set[str]:
    """The images that the folder has in every view that any of its images has."""
    by_view: dict[str, set[str]] = {}
    for found in reader.read(folder, say):
        by_view.setdefault(found.view, set()).add(found.image_id)
    if not by_view:
        raise ValueError(
            f"{folder} must have predictions of the data card's labelled images, got none; name its files like the "
            f"images ({min(reader.names, default='none')}, ...)"
        )
    common = set.intersection(*by_view.values())
    say(f"{folder}: {len(common)} images, {len(by_view)} views")
    return common


def _common(have: dict[str, set[str]], allow_missing: bool, say: Say) -> set[str]:
    common, every = set.intersection(*have.values()), set.union(*have.values())
    missing = sorted(every - common)
    if missing:
        where = "; ".join(f"{name} lacks {len(every - ids)}" for name, ids in have.items() if every - ids)
        listed = ", ".join(missing[:20]) + (", ..." if len(missing) > 20 else "")
        if not allow_missing or not common:
            raise ValueError(
                f"every member must have every image, but {where} ({listed}); predict these, or leave them out of all "
                "with --allow-missing"
            )
        say(f"warning: {len(missing)} images are left out, as not every member has them: {listed}")
    return common


def _split(index: SegIndex, ids: Sequence[str], out_of_fold: bool, seed: int, say: Say) -> Split:
    """val and holdout as the card names them, else half of the groups each; out of fold, train is as good as val."""
    records = index.by_id()
    val = tuple(i for i in ids if records[i].role == "val" or (out_of_fold and records[i].role == "train"))
    holdout = tuple(i for i in ids if records[i].role == "holdout")
    notes: tuple[str, ...] = ()
    trained = 0 if out_of_fold else sum(records[i].role == "train" for i in ids)
    if not val or not holdout:
        groups = sorted({records[i].group for i in ids})
        if len(groups) < 4:
            raise ValueError(
                "a verdict needs images to fit on and others to judge by, got predictions of "
                f"{len(ids)} images in {len(groups)} groups of one part; predict val and holdout of the data card"
            )
        aside = set(np.random.default_rng(seed).permutation(groups)[: len(groups) // 2].tolist())
        val = tuple(i for i in ids if records[i].group not in aside)
        holdout = tuple(i for i in ids if records[i].group in aside)
        notes = (
            f"the predictions are of one part of the data card: {len(holdout)} of its images were set aside at random "
            "as the hold-out",
        )
        if trained:
            notes += (
                f"{trained} images are of the card's train: their scores flatter members that were fitted to them",
            )
    if out_of_fold:
        notes += (
            "that no image was predicted by a model that was trained on it is taken from the names of the folders: "
            "nothing here can check it",
        )
    for note in notes:
        say(f"note: {note}")
    fingerprint = hashlib.sha256(json.dumps([val, holdout]).encode()).hexdigest()[:24]
    return Split((), val, holdout, fingerprint, notes)


def _import(
    found: Iterable[ExternalPrediction],
    name: str,
    labels: RasterLabels,
    split: Split,
    part_of: dict[str, SplitName],
    out: Path,
) -> None:
    header = LogitHeader(
        trial=name,
        recipe_hash="",
        family=name,
        split="val",
        view="",
        classes=labels.index.classes,
        stride=1,
        data_fingerprint=labels.index.fingerprint,
        split_fingerprint=split.fingerprint,
        checkpoint_fingerprint=name,
    )
    writers: dict[tuple[str, SplitName], LogitWriter] = {}
    for one in found:
        part = part_of.get(one.image_id)
        if part is None:
            continue
        key = one.view, part
        if key not in writers:
            folder = out / "logits" / name / part
            writers[key] = LogitWriter(folder, replace(header, split=part, view=one.view))
        writers[key].add(one.image_id, one.logits.astype(np.float16), labels.size(one.image_id))
    for writer in writers.values():
        writer.close()
