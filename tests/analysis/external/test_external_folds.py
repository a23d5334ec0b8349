"""Members of other tools that were trained on folds: who predicted what, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from analysis.ensembling.options import EnsembleOptions
from analysis.external.folds import MemberReader, fold_folders
from analysis.external.members import RasterLabels, collect, judge_members
from analysis.external.predictions import names_of
from trainables.data.card import read_card
from trainables.data.reader import read
from trainables.data.synthetic.dataset import write_synthetic

OPTIONS = EnsembleOptions(sample_mb=2, resamples=100, folds=2, max_sweeps=2, postprocess="off")


@pytest.fixture(scope="module")
def labels(tmp_path_factory: pytest.TempPathFactory) -> RasterLabels:
    return RasterLabels(
        read(read_card(write_synthetic(tmp_path_factory.mktemp("data"), num_images=24, image_px=64, seed=0)))
    )


def ids_of(labels: RasterLabels, *roles: str) -> list[str]:
    return [record.image_id for record in labels.index.images if record.role in roles]


def probabilities(labels: RasterLabels, image_id: str, seed: int) -> np.ndarray:
    """(K,H,W) that know the truth beneath noise."""
    label = labels.label(image_id)
    logits = np.random.default_rng([seed, *image_id.encode()]).normal(size=(labels.index.num_classes, *label.shape))
    odds = np.exp(logits + 2 * (np.arange(len(logits))[:, None, None] == label))
    shares: np.ndarray = odds / odds.sum(0)
    return shares


def save(folder: Path, labels: RasterLabels, ids: list[str], seed: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for image_id in ids:
        name = str(Path(image_id).with_suffix("")).replace("/", "_")
        np.savez(folder / f"{name}.npz", probabilities=probabilities(labels, image_id, seed))


def write_member(folder: Path, labels: RasterLabels, seed: int, num_folds: int = 3) -> Path:
    """As nnU-Net leaves it: fold_<k>/validation has fold k; each fold's model has predicted the hold-out too."""
    images, sealed = ids_of(labels, "train", "val"), ids_of(labels, "holdout")
    for fold in range(num_folds):
        save(folder / f"fold_{fold}" / "validation", labels, images[fold::num_folds], seed)
        save(folder / f"fold_{fold}" / "test", labels, sealed, 10 * seed + fold)
    return folder


def reader_of(labels: RasterLabels) -> MemberReader:
    every = ids_of(labels, "train", "val", "holdout")
    return MemberReader(labels.index.classes, names_of(every), labels.size, frozenset(ids_of(labels, "holdout")))


def test_every_image_comes_once_and_the_hold_out_is_the_mean_of_the_folds(labels: RasterLabels, tmp_path: Path) -> None:
    folder = write_member(tmp_path / "a", labels, seed=1)
    (folder / "fold_10").mkdir()
    assert [path.name for path in fold_folders(folder)] == ["fold_0", "fold_1", "fold_2", "fold_10"]
    (folder / "fold_10").rmdir()
    found = list(reader_of(labels).read(folder))
    assert sorted(one.image_id for one in found) == sorted(ids_of(labels, "train", "val", "holdout"))
    logits = {one.image_id: one.logits.astype(np.float64) for one in found}
    for image_id in ids_of(labels, "holdout")[:3]:
        mean = np.mean([probabilities(labels, image_id, 10 + fold) for fold in range(3)], axis=0)
        odds = np.exp(logits[image_id])
        np.testing.assert_allclose(odds / odds.sum(0), mean, atol=1e-5)


def test_rules_are_fitted_on_all_images_outside_the_hold_out(labels: RasterLabels, tmp_path: Path) -> None:
    folders = [write_member(tmp_path / name, labels, seed) for seed, name in enumerate("ab", 1)]
    members = collect(folders, labels, tmp_path / "out")
    assert set(members.val.ids) == set(ids_of(labels, "train", "val"))
    result = judge_members(members, tmp_path / "out", OPTIONS, opened_at="2026-01-01T00:00:00+00:00")
    assert (result.fitted_on.kind, result.fitted_on.folds, result.num_holdout) == (
        "out_of_fold", 3, len(ids_of(labels, "holdout")),
    )  # fmt: skip
    assert any("names of the folders" in caveat for caveat in result.caveats)


def test_the_hold_out_may_lie_in_a_folder_of_its_own(labels: RasterLabels, tmp_path: Path) -> None:
    folder, sealed = tmp_path / "a", ids_of(labels, "holdout")
    write_member(folder, labels, seed=1)
    save(folder / "ensembled", labels, sealed, seed=7)
    [one] = [found for found in reader_of(labels).read(folder) if found.image_id == sealed[0]]
    odds = np.exp(one.logits.astype(np.float64))
    np.testing.assert_allclose(odds / odds.sum(0), probabilities(labels, sealed[0], 7), atol=1e-5)
    save(folder / "ensembled", labels, ids_of(labels, "train")[:1], seed=7)
    with pytest.raises(ValueError, match="must hold images of the data card's hold-out alone, got"):
        list(reader_of(labels).read(folder))


def test_what_would_leak_or_is_ambiguous_is_refused(labels: RasterLabels, tmp_path: Path) -> None:
    twice = write_member(tmp_path / "twice", labels, seed=1)
    save(twice / "fold_1" / "validation", labels, ids_of(labels, "train", "val")[:1], seed=1)
    with pytest.raises(ValueError, match=r"the one fold's model that was not trained on it, got .*fold_0 and .*fold_1"):
        list(reader_of(labels).read(twice))
    partial = write_member(tmp_path / "partial", labels, seed=1)
    next((partial / "fold_2" / "test").iterdir()).unlink()
    with pytest.raises(ValueError, match=r"must predict the same images of the hold-out .*fold_2 does not have"):
        list(reader_of(labels).read(partial))
    plain = tmp_path / "plain"
    save(plain, labels, ids_of(labels, "val", "holdout"), seed=3)
    with pytest.raises(ValueError, match=r"must have folders fold_0, fold_1, \.\.\., or none, got none in .*plain"):
        collect([write_member(tmp_path / "folds", labels, seed=2), plain], labels, tmp_path / "out")
