"""The command that trains one recipe."""

from __future__ import annotations

import subprocess
import sys

import pytest
from typer.testing import CliRunner

from trainables.data.augment.pipeline import read_pipeline
from trainables.data.synthetic.dataset import write_synthetic
from trainables.fit import app
from trainables.recipe.recipe import Recipe
from trainables.training.fit import Diverged, OutOfMemory


@pytest.fixture(scope="module")
def card_path(tmp_path_factory):
    return write_synthetic(tmp_path_factory.mktemp("synthetic") / "set", num_images=18, image_px=64, seed=0)


def recipe_of(**train):
    train = {"num_epochs": 2, "batch_size": 2, "num_workers": 0} | train
    model = {"backbone": {"name": "test_convnext", "pretrained": False}, "head": {"name": "segformer", "channels": 16}}
    return Recipe.model_validate({**model, "augmentation": {"crop_px": 32}, "train": train})


def test_help_imports_nothing_heavy():
    code = (
        "import sys; from typer.testing import CliRunner; from trainables.fit import app;"
        "assert '--recipe' in CliRunner().invoke(app, ['--help']).output;"
        "print({'torch', 'numpy', 'cv2', 'timm'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_the_command_trains_and_resumes(card_path, tmp_path):
    recipe = recipe_of(num_epochs=2)
    (tmp_path / "recipe.json").write_text(recipe.model_dump_json())
    command = [sys.executable, "-m", "trainables.fit", "--recipe", tmp_path / "recipe.json"]
    command += ["--data", card_path, "--out", tmp_path / "out", "--device", "cpu"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert [line.split()[1] for line in done.stdout.splitlines()] == ["1", "2"]
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "best.json",
        "best.safetensors",
        "cache",
        "epoch-0002",
    ]
    pipeline = read_pipeline(tmp_path / "out" / "epoch-0002" / "augmentation.json")
    assert type(pipeline.transforms[0]).__name__ == "ScaledCrop"


def test_the_commands_mistakes_are_one_line(card_path, tmp_path):
    (tmp_path / "recipe.json").write_text(recipe_of(batch_size=99).model_dump_json())
    arguments = ["--recipe", tmp_path / "recipe.json", "--data", card_path, "--out", tmp_path / "o", "--device", "cpu"]
    refused = CliRunner().invoke(app, [str(a) for a in arguments])
    assert (refused.exit_code, refused.stderr.splitlines()[1:]) == (2, [])
    assert refused.stderr.startswith("segsearch: batch_size must not exceed")
    shown = CliRunner().invoke(app, [str(a) for a in arguments] + ["--debug"])
    assert isinstance(shown.exception, ValueError)


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [(Diverged("loss is nan"), 3, "the trial diverged: loss is nan"), (OutOfMemory("cpu is full"), 2, "cpu is full")],
)
def test_a_failed_trial_ends_the_command_with_its_code(card_path, tmp_path, monkeypatch, error, code, said):
    def fails(*args, **options):
        raise error

    monkeypatch.setattr("trainables.training.fit.fit", fails)
    (tmp_path / "recipe.json").write_text(recipe_of().model_dump_json())
    arguments = ["--recipe", tmp_path / "recipe.json", "--data", card_path, "--out", tmp_path / "o"]
    done = CliRunner().invoke(app, [str(a) for a in arguments])
    assert (done.exit_code, done.stderr) == (code, f"segsearch: {said}\n")
