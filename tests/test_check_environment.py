"""An environment named by VENV= is checked before anything runs in it, and never changed."""

from __future__ import annotations

import runpy
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / ".ci" / "check_environment.py"


def check(*options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *options, SCRIPT, "dev"], capture_output=True, text=True)


def test_an_environment_that_has_everything_passes_in_silence() -> None:
    done = check()
    assert (done.returncode, done.stderr) == (0, "")


def test_every_missing_package_is_listed_with_one_command_that_installs_them() -> None:
    done = check("-I", "-S")  # without site-packages
    assert done.returncode == 2
    assert done.stderr.startswith("segsearch: the environment lacks packages:")
    assert f"{sys.executable} -m pip install 'ray[tune,default]" in done.stderr
    assert "'ruff>=" in done.stderr


@pytest.mark.parametrize(
    ("requirement", "have", "fits"),
    [
        ("torch>=2.11", "2.11.0+cu128", True),
        ("torch>=2.11", "2.9.1", False),
        ("albumentations>=2.0.8,<3", "3.0.0", False),
        ("torchvision", "0.1", True),
    ],
)
def test_versions_are_compared(requirement: str, have: str, fits: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata, "version", lambda name: have)
    assert (runpy.run_path(str(SCRIPT))["problem"](requirement) is None) == fits
