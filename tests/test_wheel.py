"""The wheel works outside the repository."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CODE = "import sys; from search.cli import main; sys.argv[0] = 'segsearch'; main()"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds the installed wheel and nothing else of the project."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    shutil.copytree(
        ROOT, source, ignore=shutil.ignore_patterns(".git", ".venv", "build", "*.egg-info", "runs", ".*cache")
    )
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    subprocess.run([*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", folder, source], check=True)
    [wheel] = folder.glob("*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--target", folder / "site", wheel], check=True)
    return folder / "site"


def segsearch(installed: Path, *argv: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    command = [sys.executable, "-c", CODE, *argv]
    return subprocess.run(command, cwd=installed.parent, env=environment, capture_output=True, text=True)


@pytest.mark.slow
def test_the_installed_command_validates_a_shipped_space(installed: Path) -> None:
    assert (installed / "bin/segsearch").is_file()
    assert (installed / "analysis/report/templates/report.html.j2").is_file()
    assert "--space" in segsearch(installed, "run", "--help").stdout
    assert "properties" in json.loads(segsearch(installed, "schema").stdout)
    valid = segsearch(installed, "run", "--space", "convnext.yaml", "--data", "missing.yaml")
    assert (valid.returncode, "missing.yaml" in valid.stderr) == (2, True), valid.stderr
    wrong = segsearch(installed, "run", "--space", "convnext.yaml", "--set", "search.num_trails=3")
    assert (wrong.returncode, "did you mean 'num_trials'" in wrong.stderr) == (2, True), wrong.stderr
