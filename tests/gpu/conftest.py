"""The suite of the GPU's code paths: `make gpu`, in under ten minutes, without Ray and without a network.

Without a GPU all of it is skipped; SEGSEARCH_GPU_SUITE=cpu rehearses it on a CPU with narrow networks and small crops.
What asks for the fixture `gpu` cannot be rehearsed: an allocator with a limit, the peak of the device's memory, pinned
pages and half precision in prediction. Of the rest a CPU shows neither whether a step waits for the device nor
TensorFloat-32, and two ranks talk by Gloo instead of NCCL.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from gpu_recipes import NUM_IMAGES, TOY, Train
from narrow_models import narrowed

from trainables.data.augment.train_set import train_loader
from trainables.data.cache import Cache
from trainables.data.card import read_card
from trainables.data.index import Split
from trainables.data.reader import read
from trainables.data.splits.make_split import make_split
from trainables.data.synthetic.dataset import write_synthetic
from trainables.device import autocast_dtype, float32_products
from trainables.logits.predict_views import Inference
from trainables.recipe.recipe import Recipe
from trainables.training.attempt import train_set
from trainables.training.epoch import train_epoch
from trainables.training.fit import Trial, fit
from trainables.training.state import prepare
from trainables.training.validate import Scores, validate

Steps = Callable[[Recipe], tuple[float, Scores]]


@pytest.fixture(scope="session")
def device() -> str:
    if TOY:
        return "cpu"
    if torch.cuda.is_available():
        return "cuda"
    pytest.skip("needs a GPU (SEGSEARCH_GPU_SUITE=cpu rehearses on a CPU what it can do)")


@pytest.fixture(scope="session", autouse=True)
def _toys(device: str) -> Iterator[None]:
    with narrowed() if device == "cpu" else contextlib.nullcontext():
        yield


@pytest.fixture
def narrow() -> Iterator[None]:
    """For what does not depend on the width: making a network takes longer than ten updates of it."""
    with narrowed():
        yield


@pytest.fixture
def gpu(device: str) -> str:
    """For what a CPU has not."""
    if device != "cuda":
        pytest.skip("needs a GPU")
    return device


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> tuple[Cache, Split]:
    folder = tmp_path_factory.mktemp("gpu")
    index = read(read_card(write_synthetic(folder / "set", num_images=NUM_IMAGES, image_px=160, seed=0)))
    return Cache.open(index, folder / "cache"), make_split(index, seed=0)


@pytest.fixture(autouse=True)
def _leave_no_files(tmp_path: Path) -> Iterator[None]:
    """Checkpoints of all tests together would fill a small disk."""
    yield
    shutil.rmtree(tmp_path, ignore_errors=True)


@pytest.fixture
def steps(data: tuple[Cache, Split], device: str, tmp_path: Path) -> Steps:
    """recipe -> what one epoch of ten updates and a validation came to, without checkpoints."""

    def taken(recipe: Recipe) -> tuple[float, Scores]:
        trial, amp = Trial(recipe, *data, tmp_path, device), recipe.train.amp
        autocast = autocast_dtype(amp, device)
        state, loss = prepare(trial, autocast, resume_from=None)
        loader = train_loader(train_set(trial), recipe.train.batch_size, 0, 0, pinned=device == "cuda")
        with float32_products(amp):
            metrics = train_epoch(state, loader, loss, recipe, autocast=autocast, clock=time.perf_counter)
            inference = Inference.of(recipe, state.evaluated, device, recipe.train.batch_size)
            scores = validate(inference, loss, trial.cache, trial.split.val_ids)
        assert state.num_updates >= 10
        return metrics["train/loss"], scores

    return taken


@pytest.fixture
def train(data: tuple[Cache, Split], device: str, tmp_path: Path) -> Train:
    """(recipe, options of `fit`) -> the metrics of every epoch."""

    def trained(recipe: Recipe, folder: str = "trial", on: str = device, **options: Any) -> list[dict[str, Any]]:
        reports: list[dict[str, Any]] = []
        fit(Trial(recipe, *data, tmp_path / folder, on), lambda done: reports.append(done.metrics), **options)
        return reports

    return trained
