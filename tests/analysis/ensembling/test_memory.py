"""The memory that the ensemble stage takes, against what it says."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
from factories import make_header, make_store

from analysis.ensembling.fit import fit_ensemble
from analysis.ensembling.judge_on_holdout import Provenance
from analysis.ensembling.options import EnsembleOptions
from analysis.ensembling.result import HoldoutOpening
from analysis.voting.labelled_logits import LabelledLogits
from trainables.data.index import ImageRecord, SegIndex
from trainables.logits.store import LogitStore

CLASSES, SIZE, MEMBERS = tuple("abcde"), (96, 112), ("u", "v")
OPTIONS = EnsembleOptions(sample_mb=1, resamples=200, max_sweeps=2)
VOTES = 2 * 50 + 11  # of an image of val: every rule's candidates twice; of one of the hold-out: the rules


class Blocks:
    def label(self, image_id: str) -> np.ndarray:
        grid = np.random.default_rng(sum(image_id.encode())).integers(0, len(CLASSES), (8, 7))
        return grid.repeat(12, 0).repeat(16, 1).astype(np.uint8)  # (H,W)


def stores_of(folder: Path, ids: tuple[str, ...], split: str) -> list[LogitStore]:
    stores = []
    for seed, trial in enumerate(MEMBERS):
        rng = np.random.default_rng(seed)
        known = {i: np.arange(len(CLASSES))[:, None, None] == Blocks().label(i)[::4, ::4] for i in ids}
        logits = {i: 2 * truth + 1.5 * rng.normal(size=truth.shape) for i, truth in known.items()}
        header = make_header(trial, classes=CLASSES, split=split, stride=4)
        stores.append(make_store(folder / trial / split, header, logits, SIZE))
    return stores


def problem(folder: Path, num_images: int) -> Callable[[], object]:
    """A whole fit on so many images each of val and hold-out, to be called."""
    val, holdout = (tuple(f"{part}/{i:03d}" for i in range(num_images)) for part in ("val", "holdout"))
    records = tuple(ImageRecord(i, folder / i, *SIZE, i, "val" if i in val else "holdout") for i in (*val, *holdout))
    index = SegIndex("made-up", records, CLASSES, "d", False)
    stores = stores_of(folder, val, "val"), stores_of(folder, holdout, "holdout")

    def fit() -> object:
        data = (LabelledLogits.of(few, ids, Blocks(), index) for few, ids in zip(stores, (val, holdout), strict=True))
        return fit_ensemble(*data, OPTIONS, Provenance(HoldoutOpening(at="now", by="a test")), folder)

    return fit


def peak_bytes(fit: Callable[[], object]) -> int:
    tracemalloc.start()
    try:
        fit()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_more_images_take_their_counts_and_no_pixel(tmp_path: Path) -> None:
    few, many, num_classes = 20, 80, len(CLASSES)
    problem(tmp_path / "warm", few)()  # compiles the kernels, untraced
    small, large = peak_bytes(problem(tmp_path / "few", few)), peak_bytes(problem(tmp_path / "many", many))
    an_image = 2 * 4 * VOTES * num_classes**2 + 2 * 2 * OPTIONS.resamples + 1000  # counts, resamples, its name
    one_whole = SIZE[0] * SIZE[1] * (4 * len(MEMBERS) * num_classes + VOTES)  # probabilities and labels
    assert large - small < (many - few) * an_image
    assert large < 2**20 * OPTIONS.sample_mb + many * an_image + one_whole + 3 * 2**20  # tables of a confusion: 2 MiB
    assert large < many * one_whole / 4
