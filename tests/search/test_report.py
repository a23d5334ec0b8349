"""What `segsearch report` refuses; what it writes is tested with its pages."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from search.cli import app

RECORD = {
    "asked": {"space": None, "data": None, "assignments": [], "profile": None},
    "card": "",
    "data_fingerprint": "",
    "versions": {},
    "stages": {},
    "started": "2026-01-01",
}


@pytest.fixture
def begun(tmp_path: Path) -> str:
    (tmp_path / "run.json").write_text(json.dumps(RECORD), encoding="utf-8")
    return str(tmp_path)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([], "one of --run and --compare must be given, got none"),
        (["--run", "RUN", "--compare", "RUN", "RUN"], "must be given, got both"),
        (["--run", "RUN", "--out", "page.html"], "--out goes with --compare"),
        (["--run", "RUN"], "whose bundle stage is done"),
        (["--compare", "RUN", "RUN"], "--compare needs two runs"),
    ],
)
def test_what_cannot_be_reported_is_refused(begun: str, given: list[str], said: str) -> None:
    done = CliRunner().invoke(app, ["report", *(begun if word == "RUN" else word for word in given)])
    assert done.exit_code == 2
    assert said in done.stderr
