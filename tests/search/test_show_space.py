"""`segsearch space --show`: what is printed reads back as the same space."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from search.cli import app
from search.space.options import Search
from search.space.space import load_space

SPACES = sorted(path.name for path in (Path(__file__).parents[2] / "spaces").glob("*.yaml") if path.name != "base.yaml")


@pytest.mark.parametrize("name", SPACES)
def test_what_is_printed_reads_back_as_the_space(name: str, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["space", "--show", name, "--set", "search.num_trials=9"])
    assert done.exit_code == 0, done.output
    shown = tmp_path / name
    shown.write_text(done.stdout, encoding="utf-8")
    space, again = load_space(name, overrides=["search.num_trials=9"]), load_space(str(shown))
    assert again.tree == space.tree
    assert [p.name for p in again.parameters()] == [p.name for p in space.parameters()]
    for parameter in space.parameters():
        assert f"#   {parameter.name} (" in done.stdout


def test_epochs_are_those_of_successive_halving() -> None:
    search = Search(num_trials=27, max_epochs=27, grace_epochs=1, reduction_factor=3)
    stops = np.repeat([1, 3, 9, 27], [18, 6, 2, 1])  # of 27 trials a third goes on at each of three rungs
    assert search.expected_epochs == pytest.approx(stops.mean())
    assert Search(max_epochs=5, grace_epochs=5).expected_epochs == 5


def test_a_wrong_space_is_told_as_a_run_would() -> None:
    done = CliRunner().invoke(app, ["space", "--show", "convnxt.yaml"])
    assert done.exit_code == 2
    assert "did you mean" in done.stderr
