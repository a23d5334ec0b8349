"""`segsearch space --show`: what is printed reads back as the same space."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from search.cli import app
from search.observers.progress import duration
from search.space.options import Search
from search.space.space import load_space
from trainables.data.synthetic.dataset import write_synthetic

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


def test_the_cost_on_this_machine_follows_from_the_steps_that_were_measured(tmp_path: Path) -> None:
    card = write_synthetic(tmp_path / "data", num_images=24, image_px=64, seed=0)
    settings = ["--profile", "cpu", "--set", "augmentation.crop_px=32", "--set", "search.num_trials=40"]
    done = CliRunner().invoke(app, ["space", "--show", "edge.yaml", *settings, "--data", str(card)])
    assert done.exit_code == 0, done.output
    images_ms = [float(ms) for ms in re.findall(r": ([\d.e+]+) ms per training image", done.stdout)]
    [(told, images)] = re.findall(r"so about (\w+) of one core for the search on (\d+) images", done.stdout)
    epochs = 40 * load_space("edge.yaml", profile="cpu").options.search.expected_epochs
    assert len(images_ms) == 3
    assert told == duration(np.mean(images_ms) / 1000 * epochs * int(images))
