"""Reads predictions of models that were trained on folds, as other tools leave them: `fold_0`, `fold_1`, ... in a
member's folder (nnU-Net's layout), each with the images that its model was not trained on.

The hold-out is predicted by every fold's model, and is then their mean, or lies in further folders beside them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path

import numpy as np

from analysis.external.predictions import ExternalPrediction, SizeOf, for_float16, read_folder

FOLD = re.compile(r"fold_(\d+)")


def fold_folders(folder: Path) -> list[Path]:
    """The folders of a member's folds, by their number; none where it is one model."""
    found = [(FOLD.fullmatch(path.name), path) for path in folder.iterdir() if path.is_dir()] if folder.is_dir() else []
    return [path for _, path in sorted((int(match[1]), path) for match, path in found if match)]


@dataclass(frozen=True)
class MemberReader:
    """Reads members' folders: with `fold_<k>` in them or without."""

    classes: Sequence[str]
    names: Mapping[str, str]  # see `predictions.names_of`
    size_of: SizeOf
    holdout: Collection[str]  # image_ids that the data card seals
    allow_missing: bool = False

    def read(self, folder: Path, say: Callable[[str], None] = lambda _line: None) -> Iterator[ExternalPrediction]:
        """Every image that the data card names. Raises ValueError as `read_folder` does, where an image outside the
        hold-out is predicted by two folds, and where folds do not predict the same images of the hold-out."""
        folds = fold_folders(folder)
        if not folds:
            yield from self._plain(folder, say)
            return
        predicted: dict[tuple[str, str], Path] = {}
        for fold in folds:
            for found in self._plain(fold, say):
                if found.image_id in self.holdout:
                    continue
                first = predicted.setdefault((found.view, found.image_id), fold)
                if first != fold:
                    raise ValueError(
                        f"an image must be predicted by the one fold's model that was not trained on it, got "
                        f"'{found.image_id}' in {first} and {fold}; take it out of the folders of models that saw it"
                    )
                yield found
        yield from self._of_holdout(folder, folds)

    def _plain(self, folder: Path, say: Callable[[str], None]) -> Iterator[ExternalPrediction]:
        return read_folder(folder, self.classes, self.names, self.size_of, allow_missing=self.allow_missing, say=say)

    def _of_holdout(self, folder: Path, folds: Sequence[Path]) -> Iterator[ExternalPrediction]:
        others = sorted(p for p in folder.iterdir() if p.is_dir() and p not in folds and not p.name.startswith("."))
        for other in others:
            for found in self._plain(other, lambda _line: None):
                if found.image_id not in self.holdout:
                    raise ValueError(
                        f"{other} lies beside folds, so it must hold images of the data card's hold-out alone, got "
                        f"'{found.image_id}'; move it to the folder of the fold whose model was not trained on it"
                    )
                yield found
        if others:
            return
        readers = [
            (found for found in self._plain(fold, lambda _line: None) if found.image_id in self.holdout)
            for fold in folds
        ]
        for few in zip_longest(*readers):
            first = next(found for found in few if found)
            odd = [
                fold
                for fold, found in zip(folds, few, strict=True)
                if found is None
                or (found.view, found.image_id, found.logits.shape) != (first.view, first.image_id, first.logits.shape)
            ]
            if odd:
                raise ValueError(
                    f"every fold must predict the same images of the hold-out at the same size, but {odd[0]} does not "
                    f"have '{first.image_id}' as {folds[few.index(first)]} does; predict it, or put the mean of all "
                    f"folds into a folder of its own beside them"
                )
            log_odds = [found.logits.astype(np.float64) for found in few if found]
            mean = np.logaddexp.reduce([one - np.logaddexp.reduce(one, axis=0) for one in log_odds])
            yield replace(first, logits=for_float16(mean.astype(np.float32)))
