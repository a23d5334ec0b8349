"""The console command: every subcommand answers --help without heavy imports, and errors have one format."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from search.cli import app

COMMANDS = [
    "run",
    "convert",
    "init",
    "space",
    "eda",
    "split",
    "mix",
    "cleanse",
    "ensemble",
    "predict",
    "fetch",
    "serve",
    "export",
    "audit",
    "report",
    "table",
    "portfolio",
    "distil",
    "pseudo",
    "prune",
    "submission",
    "schema",
]
HEAVY = {"torch", "ray", "numba", "cv2", "timm", "optuna", "albumentations", "sklearn", "scipy", "plotly", "numpy"}
HELP = """
import sys
from typer.testing import CliRunner
from search.cli import app
for command in sys.argv[1:]:
    assert CliRunner().invoke(app, [command, "--help"]).exit_code == 0, command
print(*sorted({name.split(".")[0] for name in sys.modules}))
"""


def test_help_imports_nothing_heavy() -> None:
    done = subprocess.run([sys.executable, "-c", HELP, *COMMANDS], capture_output=True, text=True, check=True)
    assert not HEAVY & set(done.stdout.split())


def test_every_command_is_listed() -> None:
    listed = CliRunner().invoke(app, ["--help"]).output.split("Commands:")[1]
    assert sorted(COMMANDS) == sorted(line.split()[0] for line in listed.splitlines() if line[:3].strip())


@pytest.mark.parametrize(
    "argv",
    [
        ["run", "--space", "nowhere.yaml"],
        ["run", "stray.yaml"],
        ["convert", "--from", "labelme", "nowhere", "--out", "out"],
        ["init", "nowhere"],
        ["space", "--show", "nowhere.yaml"],
        ["eda", "--data", "nowhere.yaml"],
        ["split", "--data", "nowhere.yaml", "--out", "split.json"],
        ["mix", "--data", "nowhere.yaml", "--out", "mixed"],
        ["cleanse", "--out", "suspects"],
        ["ensemble", "--logits", "A", "B", "--labels", "nowhere.yaml"],
        ["predict", "--bundle", "nowhere", "--images", ".", "--out", "out"],
        ["fetch", "nowhere", "--out", "out"],
        ["serve", "--bundle", "nowhere"],
        ["export", "--run", "nowhere", "--rule", "soft_vote"],
        ["audit", "nowhere"],
        ["report", "--run", "nowhere"],
        ["report", "--compare", "nowhere", "elsewhere"],
        ["table", "nowhere"],
        ["portfolio", "nowhere"],
        ["distil", "--run", "nowhere"],
        ["pseudo", "--run", "nowhere"],
        ["prune", "--run", "nowhere"],
        ["submission", "show", "--run", "nowhere/run"],
    ],
)
def test_errors_have_one_format(argv: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, argv)
    if argv[0] == "submission":  # no ledger is an empty one
        assert done.exit_code == 0
    else:
        assert (done.exit_code, done.stderr.startswith("segsearch: "), done.stdout) == (2, True, ""), done.output
        assert CliRunner().invoke(app, [*argv, "--debug"]).exit_code == 1  # the exception itself


def test_logits_take_several_folders_after_one_option(tmp_path: Path) -> None:
    folders = [str(tmp_path / name) for name in "AB"]
    done = CliRunner().invoke(app, ["ensemble", "--logits", *folders, "--labels", str(tmp_path / "card.yaml")])
    assert "card.yaml" in done.stderr
