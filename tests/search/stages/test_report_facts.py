"""What the report says of a run besides its verdict."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from factories import make_ensemble, make_member, make_row
from safetensors.numpy import save_file

from analysis.report.data_checks import SuspectsSummary
from analysis.search_quality import NoiseFloor
from search.run_dir import RunDir
from search.space.options import Options
from search.stages.report_facts import (
    families,
    origin_of,
    overtuning,
    shares_of,
    shipped_recipes,
    submissions,
    suspects,
)
from trainables.data.index import ImageRecord, SegIndex
from trainables.metrics import miou

MEMBERS = [
    make_member("soup-00001", ingredients=("00001 epoch 8", "00001 epoch 7")),
    make_member("folds-00002", family="swin", val_miou=0.61),
    make_member("00000"),
]
ENSEMBLE = make_ensemble(["a", "b"], MEMBERS)  # the second has no weight
ROWS = [
    make_row(n, "COMPLETE", best_miou=0.5 + n / 10, family=family, recipe={"seed": n}, device_s=10.0)
    for n, family in enumerate(["convnext", "convnext", "swin"])
]


def test_recipes_are_those_of_the_trials_behind_what_ships_the_strongest_first() -> None:
    found = shipped_recipes(ENSEMBLE, ROWS)
    assert {one.trial: yaml.safe_load(one.recipe) for one in found} == {"soup-00001": {"seed": 1}, "00000": {"seed": 0}}
    assert [one.share for one in found] == sorted((one.share for one in found), reverse=True)
    assert sum(one.share for one in found) == pytest.approx(1)


def test_families_have_their_share_of_the_vote_their_ties_and_scores_out_of_fold() -> None:
    floor = NoiseFloor(trial="00002", seeds=(1, 2), mious=(0.6, 0.7))
    swin, convnext = families(ROWS, ENSEMBLE, floor)
    assert (swin.family, swin.out_of_fold, swin.share, swin.tie) == ("swin", 0.61, 0.0, True)
    assert (convnext.family, convnext.best.trial, convnext.trials, convnext.tie) == ("convnext", "00001", 2, True)
    assert convnext.share == pytest.approx(shares_of(ENSEMBLE)[0] + shares_of(ENSEMBLE)[2])


def test_the_origin_of_an_older_run_is_told_as_far_as_it_is_known(tmp_path: Path) -> None:
    record = {"stages": {"bundle": "2026-01-02", "search": "2026-01-01"}, "versions": {"ray": None}, "card": "c.yaml"}
    found = origin_of(RunDir(tmp_path), record, ENSEMBLE, ROWS)
    assert [(stage.name, stage.seconds) for stage in found.stages] == [("search", None), ("bundle", None)]
    assert (found.seed, found.commit, found.versions) == (None, "", {"ray": "not installed"})
    record |= {"git": {"commit": "abc", "changed": True}, "seed": 3, "stage_s": {"search": 2.5}}
    found = origin_of(RunDir(tmp_path), record, ENSEMBLE, ROWS)
    assert (found.seed, found.commit, found.stages[0].seconds) == (3, "abc+", 2.5)


def test_only_the_runs_own_submissions_are_listed(tmp_path: Path) -> None:
    lines = [{"run": "a", "public": 0.5}, {"run": "b", "public": 0.6}]
    (tmp_path / "submissions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    assert submissions(RunDir(tmp_path / "b")) == [lines[1]]


def test_suspects_are_told_where_they_were_looked_for(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    assert suspects(run) is None
    run.suspects.mkdir()
    (run.suspects / "suspects.json").write_text(
        '{"headline": "2 labels look wrong", "num_images": 4, "counts": {"add": 2}}', encoding="utf-8"
    )
    assert suspects(run) == SuspectsSummary("2 labels look wrong", 4, {"add": 2}, "suspects/suspects.html")


def index_of(ids: list[str], groups: list[str] | None = None) -> SegIndex:
    named = groups or ids
    images = tuple(ImageRecord(i, Path(i), 4, 4, group, "val") for i, group in zip(ids, named, strict=True))
    return SegIndex("d", images, ("a", "b"), "f", grouped=groups is not None)


def write_counts(run: RunDir, counts: dict[str, np.ndarray], ids: list[str]) -> None:
    save_file(counts, run.confusions, {"val_ids": json.dumps(ids)})


def test_what_the_winner_owes_to_chance_is_of_the_members_counts(tmp_path: Path) -> None:
    run, rng, ids = RunDir(tmp_path), np.random.default_rng(0), [f"{n}.png" for n in range(30)]
    counts = {f"{one.trial}/members": rng.integers(1, 50, (30, 2, 2)) for one in MEMBERS}
    write_counts(run, counts, ids)
    rows = [replace(row, params_m=size) for row, size in zip(ROWS, (5.0, 6.0, 7.0), strict=True)]
    found = overtuning(run, index_of(ids), ENSEMBLE, None, rows, Options())
    assert found is not None
    scores = {name.partition("/")[0]: float(miou(array.sum(0))) for name, array in counts.items()}
    assert {one.name: one.miou for one in found.contenders} == scores
    assert {one.name: one.params_m for one in found.contenders} == dict(
        zip([one.trial for one in MEMBERS], (6.0, 7.0, 5.0), strict=True)
    )
    floor = NoiseFloor(trial="00002", seeds=(1, 2), mious=(0.6, 0.7))
    assert (with_seeds := overtuning(run, index_of(ids), ENSEMBLE, floor, rows, Options())) is not None
    assert with_seeds.contenders[1].error > found.contenders[1].error
    assert overtuning(run, index_of(ids, ["one"] * 30), ENSEMBLE, None, rows, Options()) is None


def test_earlier_runs_have_no_counts_of_members(tmp_path: Path) -> None:
    write_counts(RunDir(tmp_path), {"best_single/val_fitted": np.ones((1, 2, 2), np.int64)}, ["0.png"])
    assert overtuning(RunDir(tmp_path), index_of(["0.png"]), ENSEMBLE, None, ROWS, Options()) is None
    with pytest.raises(ValueError, match="must hold val's counts"):
        overtuning(RunDir(tmp_path / "gone"), index_of(["0.png"]), ENSEMBLE, None, ROWS, Options())
