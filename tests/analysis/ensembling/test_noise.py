"""What the whole ensemble stage makes of members that are noise, copies of one, or know some classes each."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from factories import make_header, make_store

from analysis.ensembling.fit import fit_ensemble
from analysis.ensembling.judge_on_holdout import Provenance
from analysis.ensembling.options import EnsembleOptions
from analysis.ensembling.result import EnsembleResult, HoldoutOpening
from analysis.voting.labelled_logits import LabelledLogits
from trainables.data.index import ImageRecord, SegIndex
from trainables.logits.store import LogitStore

K, GRID, SIZE = 3, (6, 6), (12, 12)
VAL, HOLDOUT = (tuple(f"{part}/{i}.png" for i in range(12)) for part in ("val", "test"))
PARTS = {"val": VAL, "holdout": HOLDOUT}
OPTIONS = EnsembleOptions(sample_mb=1, resamples=200, folds=2, max_sweeps=4)


class Labels:
    """Images that differ in how much of each class they hold, drawn by the seed."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def grid(self, image_id: str) -> np.ndarray:
        rng = np.random.default_rng([self.seed, *image_id.encode()])
        return rng.choice(K, (3, 3), p=rng.dirichlet((2.0, 2.0, 2.0))).repeat(2, 0).repeat(2, 1)  # (6,6)

    def label(self, image_id: str) -> np.ndarray:
        label: np.ndarray = self.grid(image_id).repeat(2, 0).repeat(2, 1).astype(np.uint8)
        return label


def judged(root: Path, skills: list[tuple[float, ...]], seeds: list[int], labels: Labels) -> EnsembleResult:
    """The stage's answer on members that know class k with strength skill[k]; equal seeds have equal noise."""
    stores: dict[str, list[LogitStore]] = {"val": [], "holdout": []}
    for m, (skill, seed) in enumerate(zip(skills, seeds, strict=True)):
        for part, ids in PARTS.items():
            logits = {}
            for i, image_id in enumerate(ids):
                noise = np.random.default_rng([labels.seed, seed, i, len(part)]).normal(size=(K, *GRID))
                truth = labels.grid(image_id)
                logits[image_id] = noise + np.array(skill)[truth] * (np.arange(K)[:, None, None] == truth)
            header = make_header(str(m), classes="abc", split=part, stride=2)
            stores[part].append(make_store(root / str(m) / part, header, logits, SIZE))
    records = tuple(ImageRecord(i, root / i, *SIZE, i, "val" if i in VAL else "holdout") for i in (*VAL, *HOLDOUT))
    index = SegIndex("noise", records, tuple("abc"), "d", False)
    val, holdout = (LabelledLogits.of(stores[part], ids, labels, index) for part, ids in PARTS.items())
    opening = HoldoutOpening(at="2025-01-01T00:00:00+00:00", by="a test")
    return fit_ensemble(val, holdout, OPTIONS, Provenance(opening), root)


@pytest.mark.slow  # a minute each: 40 whole stages
@pytest.mark.parametrize("best", [0.0, 2.5], ids=["nothing-but-noise", "beside-a-good-one"])
def test_pure_noise_ships_the_single_in_38_of_40(tmp_path: Path, best: float) -> None:
    shipped = [
        judged(tmp_path / str(seed), [(best,) * K, (0.0,) * K, (0.0,) * K], [1, 2, 3], Labels(seed)).verdict.ship
        for seed in range(40)
    ]
    assert shipped.count("single") >= 38


def test_copies_of_one_member_are_that_member(tmp_path: Path) -> None:
    answer = judged(tmp_path, [(2.0,) * K] * 3, [1, 1, 1], Labels(0))
    rules = {rule.name: rule for rule in answer.rules}
    for scoring in ("val_crossfit", "holdout"):
        for name in ("hard_vote", "soft_vote", "geometric_mean", "greedy", "member"):
            assert getattr(rules[name], scoring) == getattr(rules["best_single"], scoring), name
        for name in ("soft_class", "member_class"):
            found, plain = (getattr(rules[rule], scoring).miou for rule in (name, "best_single_class"))
            assert found == pytest.approx(plain, abs=0.01)
    assert answer.verdict.ship == "single"


def test_members_each_perfect_on_some_classes_make_an_ensemble_that_is_right_everywhere(tmp_path: Path) -> None:
    answer = judged(tmp_path, [(9.0, 9.0, 0.0), (9.0, 0.0, 9.0)], [1, 2], Labels(1))
    rules = {rule.name: rule for rule in answer.rules}
    assert rules["best_single"].holdout.miou < 0.9
    assert answer.verdict.ship == "ensemble"
    assert rules[answer.verdict.rule].holdout.miou > 0.99
