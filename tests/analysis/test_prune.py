"""Pruning deletes shards of trials that the ensemble does not need, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from factories import make_ensemble, make_member
from typer.testing import CliRunner

from analysis.prune import STAGES, app, carry_out, plan


def write_result(run: Path, shipped: str = "member_class", trials: tuple[str, ...] = ("1", "9", "2")) -> None:
    """ensemble.json of three members, of which the second has no weight in member_class."""
    members = [make_member(trial) for trial in trials]
    make_ensemble(("a", "b"), members, shipped).write(run / "ensemble.json")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A finished run: trials 1 and 2 are members, 3 is not."""
    root = tmp_path / "run"
    for trial in "123":
        for split in ("val", "holdout"):
            folder = root / "logits" / trial / split
            folder.mkdir(parents=True)
            (folder / "s1.00-none-00000.safetensors").write_bytes(b"x" * 1000)
    (root / "run.json").write_text(json.dumps({"stages": dict.fromkeys(STAGES, "then")}))
    write_result(root)
    return root


def files(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*") if not path.is_dir()}


def command(*argv: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, argv)
    return done.exit_code, done.output


def test_without_yes_what_would_go_is_listed_and_stays(run: Path) -> None:
    before = files(run)
    code, said = command("--run", str(run))
    assert (code, files(run)) == (0, before)
    assert said.splitlines() == ["3: 2 files, 0.0 MiB", "would delete 2 files, 0.0 MiB; add --yes to do it"]
    assert plan(run).num_bytes == 2000


def test_trials_that_are_no_members_go_and_so_do_half_written_files(run: Path) -> None:
    before = files(run)
    (run / "logits/1/val/.s1.00-none-00001.safetensors.12345.tmp").write_bytes(b"half")
    code, said = command("--run", str(run), "--yes")
    assert code == 0
    assert "deleted: 3 files" in said
    assert files(run) == {name for name in before if not name.startswith("logits/3/")}
    assert not (run / "logits/3").exists()
    assert plan(run).unneeded == {}


def test_all_takes_the_members_too(run: Path) -> None:
    carry_out(plan(run, members_too=True))
    assert files(run) == {"run.json", "ensemble.json"}


def test_links_are_not_followed_and_strangers_stay(run: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    (outside / "val").mkdir(parents=True)
    (outside / "val/s1.00-none-00000.safetensors").write_bytes(b"theirs")
    (run / "logits/4").symlink_to(outside)
    (run / "logits/3/more").symlink_to(outside / "val")
    (run / "logits/3/val/s2.00-none-00000.safetensors").symlink_to(outside / "val/s1.00-none-00000.safetensors")
    (run / "logits/3/holdout/notes.txt").write_text("mine")
    found = plan(run, members_too=True)
    assert len(found.left) == 4
    carry_out(found)
    assert files(outside) == {"val/s1.00-none-00000.safetensors"}
    assert "logits/3/holdout/notes.txt" in files(run)


@pytest.mark.parametrize("name", ["logits", "soups", "folds"])
def test_a_folder_that_is_a_link_is_refused(run: Path, tmp_path: Path, name: str) -> None:
    (run / name).mkdir(exist_ok=True)
    (run / name).rename(tmp_path / "elsewhere")
    (run / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match="got a link, which is not followed"):
        plan(run)


def test_a_member_name_that_leaves_the_run_leads_nowhere(run: Path, tmp_path: Path) -> None:
    (tmp_path / "val").mkdir()
    (tmp_path / "val/s1.00-none-00000.safetensors").write_bytes(b"theirs")
    write_result(run, trials=("../..", "9", "2"))
    carry_out(plan(run, members_too=True))
    assert (tmp_path / "val/s1.00-none-00000.safetensors").exists()


@pytest.mark.parametrize("stage", STAGES)
def test_an_unfinished_run_is_refused(run: Path, stage: str) -> None:
    before = files(run)
    (run / "run.json").write_text(json.dumps({"stages": {s: "then" for s in STAGES if s != stage}}))
    code, said = command("--run", str(run), "--yes")
    assert (code, files(run)) == (2, before)
    assert f"without {stage}; finish it first" in said


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    code, said = command("--run", str(tmp_path), "--yes")
    assert code == 2
    assert "run.json must be a JSON file, got none" in said


def test_after_a_single_model_verdict_only_its_logits_stay(run: Path) -> None:
    write_result(run, "best_single")
    (run / "logits/2/val/cost.json").write_text("{}")
    (run / "logits/1/val/cost.json").write_text("{}")
    code, said = command("--run", str(run), "--yes")
    assert (code, "left:" in said) == (0, False)
    kept = {name for name in files(run) if name.startswith("logits/")}
    shard = "s1.00-none-00000.safetensors"
    assert kept == {f"logits/1/val/{shard}", f"logits/1/holdout/{shard}", "logits/1/val/cost.json"}


@pytest.mark.parametrize(("kind", "stem"), [("soups", "best"), ("folds", "fold-0")])
def test_soups_and_fold_models_that_do_not_ship_lose_their_weights(run: Path, kind: str, stem: str) -> None:
    for name in ("other", "2"):
        (run / kind / name).mkdir(parents=True)
        (run / kind / name / f"{stem}.safetensors").write_bytes(b"x" * 10)
        (run / kind / name / f"{stem}.json").write_text("{}")
    carry_out(plan(run))
    assert {name for name in files(run) if name.startswith(kind)} == {
        f"{kind}/other/{stem}.json",
        f"{kind}/2/{stem}.json",
        f"{kind}/2/{stem}.safetensors",
    }
