"""One small Ray for every test of the search, and trials of milliseconds that need no data."""

from __future__ import annotations

import json
import logging
import math
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import pytest

from search.engine.admission import Admission
from search.run_dir import RunDir
from search.space.options import Options, Search
from trainables.recipe.recipe import Recipe

SILENT = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
DEFAULTS: list[dict[str, Any]] = [
    {"model/backbone": "convnext_atto", "model/backbone/convnext_atto/lr": 1e-3},
    {"model/backbone": "swin_tiny", "model/backbone/swin_tiny/lr": 1e-4},
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """The machine's own Chromium."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    path = shutil.which("chromium")
    if path is None:
        pytest.skip("needs a chromium in PATH")
    with playwright.sync_playwright() as started:
        chromium = started.chromium.launch(executable_path=path, args=SILENT)
        yield chromium
        chromium.close()


def recipe_with(lr: float = 1e-3, backbone: str = "convnext_atto", num_epochs: int = 9) -> Recipe:
    values: Mapping[str, Any] = {
        "backbone": {"name": backbone},
        "head": {"name": "segformer"},
        "optimizer": {"lr": lr},
        "train": {"num_epochs": num_epochs},
    }
    return Recipe.model_validate(values)


def suggest(trial: optuna.Trial) -> Recipe:
    """Two families; the branch brings its own learning rate under its own name, as spaces do."""
    backbone = trial.suggest_categorical("model/backbone", ["convnext_atto", "swin_tiny"])
    return recipe_with(trial.suggest_float(f"model/backbone/{backbone}/lr", 1e-5, 1e-1, log=True), backbone)


def curve(recipe: Recipe, epoch: int) -> float:
    """A learning curve that is a function of the recipe alone; the best learning rate is 1e-3."""
    return (1 - 0.8**epoch) / (1.0 + (math.log10(recipe.optimizer.lr) + 3) ** 2)


@dataclass(frozen=True)
class ToySpace:
    """`suggest` and DEFAULTS above with a budget."""

    options: Options
    first: Any
    draw: Any

    def suggest(self, trial: optuna.Trial) -> Recipe:
        return self.draw(trial)

    def defaults(self) -> Any:
        return self.first


def space_of(seed: int = 0, draw: Any = suggest, first: Any = None, **search: Any) -> ToySpace:
    """The toy space; keywords are options of the search."""
    budget = {"num_trials": 6, "max_epochs": 9, "grace_epochs": 1, "reduction_factor": 3, "max_failures": 0} | search
    options = Options.model_validate({"search": budget, "seed": seed})
    return ToySpace(options, DEFAULTS if first is None else first, draw)


@dataclass(frozen=True)
class ToyPolicy:
    """By default admits every recipe, on one CPU."""

    wanted: Callable[[Recipe], Mapping[str, float]] = lambda recipe: {"cpu": 1}
    decide: Callable[[Recipe], Admission] = lambda recipe: Admission()

    def admit(self, recipe: Recipe) -> Admission:
        return self.decide(recipe)

    def resources_of(self, recipe: Recipe) -> Mapping[str, float]:
        return self.wanted(recipe)


def make_trainable(
    *,
    epoch_s: float = 0.0,
    before_epoch: Callable[[Recipe, int], None] | None = None,
    after: Callable[[], None] | None = None,
) -> Callable[[dict[str, Any]], None]:
    """A trial that follows `curve`, keeps its epoch and process in a checkpoint, and goes on from it.

    An epoch of the swin family takes four times as long.
    """

    def train(config: dict[str, Any]) -> None:
        from ray import tune

        recipe = Recipe.model_validate(config["recipe"])
        checkpoint = tune.get_checkpoint()
        folder = checkpoint.path if checkpoint else config["resume_from"]
        done = json.loads((Path(folder) / "state.json").read_text())["epoch"] if folder else 0
        try:
            for epoch in range(done + 1, recipe.train.num_epochs + 1):
                time.sleep(epoch_s * (4 if recipe.family == "swin" else 1))
                if before_epoch:
                    before_epoch(recipe, epoch)
                with tempfile.TemporaryDirectory() as state:
                    (Path(state) / "state.json").write_text(json.dumps({"epoch": epoch, "pid": os.getpid()}))
                    metrics = {"val/miou": curve(recipe, epoch), "epoch": epoch, "val/iou": [0.5, None]}
                    metrics |= {"threads": os.environ["OMP_NUM_THREADS"], "cwd": str(Path.cwd())}
                    tune.report(metrics, checkpoint=tune.Checkpoint.from_directory(state))
        finally:
            if after:
                after()

    return train


@pytest.fixture(autouse=True)
def interruptible() -> Iterator[None]:
    """Python's own handler of SIGINT: a shell's background job begins without it, and Ray Tune leaves another."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="session")
def toy() -> Any:
    """This module: what is above, for the tests beside it."""
    return sys.modules[__name__]


@pytest.fixture(scope="session")
def local_ray() -> Iterator[None]:
    import ray
    from ray import cloudpickle

    cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import a conftest
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level=logging.WARNING)
    yield
    ray.shutdown()


PAST_SPACE = """
model: {backbone: {choice: [test_convnext, test_resnet]}, head: segformer}
augmentation: {crop_px: 64}
optimizer: {lr: {log: [1.0e-5, 1.0e-1]}}
search: {num_trials: 6, max_epochs: 9, grace_epochs: 1}
"""


@pytest.fixture
def past_run() -> Callable[..., Path]:
    """Makes a run in a folder, with trials that ran to their end and scored `curve` plus `more` of their recipe."""

    def make(
        root: Path, text: str = PAST_SPACE, data: str = "data", more: Callable[[Recipe], float] = lambda recipe: 0.0
    ) -> Path:
        from optuna.samplers import RandomSampler

        from search.engine.study_file import STUDY_NAME, open_storage
        from search.space.space import load_space

        run = RunDir(root)
        root.mkdir(parents=True)
        run.space_yaml.write_text(text, encoding="utf-8")
        run.run_json.write_text(json.dumps({"data_fingerprint": data}), encoding="utf-8")
        space, storage = load_space(str(run.space_yaml)), open_storage(run.study_db)
        asked = optuna.create_study(sampler=RandomSampler(seed=space.options.seed))
        study = optuna.create_study(storage=storage, study_name=STUDY_NAME, direction="maximize")
        for default in space.defaults():
            asked.enqueue_trial(default)
        for _ in range(space.options.search.num_trials):
            trial = asked.ask()
            recipe = space.suggest(trial)
            identity = {"recipe": recipe.model_dump(mode="json"), "hash": recipe.hash, "family": recipe.family}
            ended = {"value": curve(recipe, 9) + more(recipe), "user_attrs": {"identity": identity}}
            study.add_trial(optuna.trial.create_trial(params=trial.params, distributions=trial.distributions, **ended))
        storage.engine.dispose()
        return root

    return make


@pytest.fixture
def search_in(local_ray: None, toy: Any, tmp_path: Path) -> Callable[..., Any]:
    """`run_search` on the toy space under `tmp_path`; keywords change options or arguments."""
    from search.cluster.run_files import RunFiles
    from search.engine.tuner import run_search

    def run(**changes: Any) -> Any:
        budget = {key: changes.pop(key) for key in list(changes) if key in Search.model_fields}
        given = {"wanted": changes.pop("resources_of", None), "decide": changes.pop("admit", None)}
        policy = toy.ToyPolicy(**{name: each for name, each in given.items() if each})
        trainable, folder = changes.pop("trainable", toy.make_trainable()), changes.pop("folder", tmp_path)
        return run_search(toy.space_of(**budget), policy, trainable, RunFiles(RunDir(folder)), **changes)

    return run
