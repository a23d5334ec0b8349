"""All runs of a folder in one table: what stands in it, what is left out and said, every format read back."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from factories import make_ensemble, make_member, make_row
from pyarrow import parquet
from typer.testing import CliRunner

from analysis.ensembling.result import FittedOn
from analysis.submission import record
from search.observers.trials_csv import write_csv
from search.table import app
from trainables.csv_cells import unescaped

RECORD: dict[str, Any] = {
    "asked": {"space": "a.yaml", "data": None, "assignments": [], "profile": None},
    "card": "data.yaml",
    "data_fingerprint": "d",
    "versions": {},
    "stages": {},
    "started": "2026-01-02T03:04:05+00:00",
    "space": "a.yaml",
    "git": {"commit": "0123456789abcdef", "changed": True},
}
SPACE = "augmentation: {crop_px: 64, policy: light, mixing: {mosaic: {float: [0.0, 1.0]}}}\n"


def make_run(root: Path, best: float = 0.5, *, done: tuple[str, ...] = ("search", "ensemble"), **row: Any) -> Path:
    """A run of two trials, of which the first is `best`, and, where that stage is done, an ensemble of their folds."""
    root.mkdir(parents=True)
    (root / "run.json").write_text(json.dumps(RECORD | {"stages": dict.fromkeys(done, "now")}), encoding="utf-8")
    (root / "space.yaml").write_text(SPACE, encoding="utf-8")
    first = make_row(0, "COMPLETE", best_miou=best, epochs=9, device_s=1800.0, **row)
    first.params = {"augmentation/mixing/mosaic": 0.3, "optimizer/lr": 1e-3}
    second = make_row(1, "PRUNED", device="gpu", device_s=7200.0, best_miou=best - 0.1)
    write_csv(root / "trials.csv", [first, second], ["a", "b"])
    if "ensemble" in done:
        members = [make_member(f"folds-0000{n}", val_miou=0.45 - 0.01 * n) for n in range(2)]
        fitted_on = FittedOn(kind="out_of_fold", images=9, folds=3)
        make_ensemble(("a", "b"), members).model_copy(update={"fitted_on": fitted_on}).write(root / "ensemble.json")
    return root


def table(*args: object) -> Any:
    return CliRunner().invoke(app, [str(arg) for arg in args])


def rows(*args: object) -> list[dict[str, str]]:
    done = table(*args, "--format", "csv")
    assert done.exit_code == 0, done.output
    return list(csv.DictReader(io.StringIO(done.stdout)))


def test_a_run_has_its_best_trial_and_the_shipped_rules_scores(tmp_path: Path) -> None:
    record(make_run(tmp_path / "one"), 0.7, "2026-01-01")
    record(tmp_path / "one", 0.71, "2026-01-02", private=0.6)
    [row] = rows(tmp_path)
    assert (row["run"], row["trial"], row["trials"], row["state"]) == ("one", "", "2", "ensemble")
    assert (row["backbone"], row["head"], row["rule"]) == ("convnext_atto", "segformer", "member_class")
    assert row["augmentation"] == "policy=light, mixing.mosaic=0.3"
    assert [float(row[key]) for key in ("val", "out_of_fold", "crossfit", "holdout")] == [0.5, 0.45, 0.55, 0.5]
    assert [float(row[key]) for key in ("holdout_low", "holdout_high")] == pytest.approx([0.48, 0.52])
    assert [float(row[key]) for key in ("public", "private", "cpu_hours", "gpu_hours")] == [0.71, 0.6, 0.5, 2.0]
    assert row["commit"] == "0123456789ab+"


def test_a_trial_has_a_hold_out_score_where_it_is_the_best_single_model(tmp_path: Path) -> None:
    first, second = rows(make_run(tmp_path / "one"), "--by", "trial")
    assert (first["trial"], first["out_of_fold"], first["holdout"]) == ("00000", "0.45", "0.5")
    assert (second["trial"], second["out_of_fold"], second["holdout"]) == ("00001", "0.44", "")
    assert (second["state"], second["cpu_hours"], float(second["gpu_hours"])) == ("PRUNED", "", 2.0)


def test_rows_are_sorted_filtered_and_grouped(tmp_path: Path) -> None:
    for name, best, family in (("a", 0.5, "convnext"), ("b", 0.7, "swin"), ("c", 0.6, "swin")):
        make_run(tmp_path / name, best, family=family, backbone=f"{family}_tiny")
    assert [row["run"] for row in rows(tmp_path, "--sort", "val")] == ["b", "c", "a"]
    assert [row["run"] for row in rows(tmp_path, "--sort", "-val")] == ["a", "c", "b"]
    assert [row["run"] for row in rows(tmp_path, "--sort", "run", "--filter", "backbone=swin*")] == ["b", "c"]
    assert [row["run"] for row in rows(tmp_path, "--filter", "val>=0.6", "--filter", "family!=convnext")] == ["b", "c"]
    grouped = rows(tmp_path, "--sort", "val", "--group", "family")
    assert [(row["family"], row["run"], row["rows"]) for row in grouped] == [("swin", "b", "2"), ("convnext", "a", "1")]


def test_unknown_scores_come_last_whichever_way_is_sorted(tmp_path: Path) -> None:
    make_run(tmp_path / "done")
    make_run(tmp_path / "open", done=("search",))
    for sort in ("holdout", "-holdout"):
        assert [row["run"] for row in rows(tmp_path, "--sort", sort)] == ["done", "open"]


def test_broken_and_unfinished_runs_are_named_and_the_others_shown(tmp_path: Path) -> None:
    make_run(tmp_path / "good")
    make_run(tmp_path / "open", done=("search",))
    (make_run(tmp_path / "cut") / "ensemble.json").write_text("{", encoding="utf-8")
    (make_run(tmp_path / "torn") / "trials.csv").write_text("trial,state\n00000", encoding="utf-8")
    (make_run(tmp_path / "odd") / "run.json").write_text("[]", encoding="utf-8")
    done = table(tmp_path, "--format", "csv")
    assert done.exit_code == 0
    assert sorted(row["run"] for row in csv.DictReader(io.StringIO(done.stdout))) == ["good", "open"]
    assert "open is unfinished: it has no verdict yet" in done.stderr
    for name, file in (("cut", "ensemble.json"), ("torn", "trials.csv"), ("odd", "run.json")):
        assert any(f"{name} is left out" in line and file in line for line in done.stderr.splitlines()), done.stderr


def test_an_ensemble_of_an_earlier_attempt_is_not_shown(tmp_path: Path) -> None:
    run = make_run(tmp_path / "one")
    (run / "run.json").write_text(json.dumps(RECORD | {"stages": {"search": "now"}}), encoding="utf-8")
    [row] = rows(run)
    assert (row["holdout"], row["state"]) == ("", "search")


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["nowhere"], "RUN must be a run's directory or a folder of them, got "),
        (["broken"], "at least one run must be readable, got none (1 are broken)"),
        (["good", "--sort", "holdot"], "--sort must name a column"),
        (["good", "--group", "famly"], "did you mean 'family'?"),
        (["good", "--filter", "val>high"], "--filter val must be compared with a number, got 'high'"),
        (["good", "--filter", "backbone>a"], "--filter backbone is text and takes = or !=, got >"),
        (["good", "--filter", "convnext"], "--filter must be KEY=PATTERN"),
        (["good", "--filter", "val>0.9"], "at least one row must be left, got none of 1"),
        (["good", "--format", "parquet"], "--format parquet must go to a file"),
    ],
)
def test_what_is_wrong_is_said(args: list[str], said: str, tmp_path: Path) -> None:
    make_run(tmp_path / "good")
    (make_run(tmp_path / "broken") / "run.json").write_text("{}", encoding="utf-8")
    done = table(tmp_path / args[0], *args[1:])
    assert (done.exit_code, done.stdout) == (2, "")
    assert said in done.stderr


HOSTILE = "=cmd|' /C calc'!A0 | [b]x[/b] \x1b[2J"


def test_text_of_others_runs_nowhere(tmp_path: Path) -> None:
    run = make_run(tmp_path / "one", backbone=HOSTILE)
    [row] = rows(run)
    assert row["backbone"].startswith("'=cmd")
    assert unescaped(row["backbone"]) == HOSTILE
    shown, markdown = table(run).stdout, table(run, "--format", "md").stdout
    assert "\x1b" not in shown + markdown
    assert "[b]x[/b]" in shown
    assert "\\| \\[b\\]x" in markdown
    assert len({line.replace("\\|", "").count("|") for line in markdown.splitlines()}) == 1


def test_parquet_has_every_column_with_its_type(tmp_path: Path) -> None:
    make_run(tmp_path / "one", backbone=HOSTILE)
    make_run(tmp_path / "two", done=("search",))
    done = table(tmp_path, "--format", "parquet", "--out", tmp_path / "runs.parquet")
    assert done.stdout == f"2 rows in {tmp_path / 'runs.parquet'}\n"
    read = parquet.read_table(tmp_path / "runs.parquet")
    assert read.column("backbone").to_pylist()[0] == HOSTILE
    assert read.column("holdout").to_pylist() == [0.5, None]
    assert {name: str(read.schema.field(name).type) for name in ("run", "trials", "val")} == {
        "run": "string",
        "trials": "int64",
        "val": "double",
    }
