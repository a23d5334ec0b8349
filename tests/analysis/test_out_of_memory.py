"""Every forward pass of the product on a device that holds one image: it goes on in halves, to the same result."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from factories import make_tiny_run
from torch import Tensor

from analysis.bundle.export import BundleFacts, export
from analysis.bundle.manifest import read_bundle
from analysis.bundle.predictor import Predictor
from analysis.distillation.teacher import network_says
from trainables.data.cache import Cache
from trainables.data.card import read_card
from trainables.data.reader import read
from trainables.data.splits.folds import deal_folds
from trainables.data.splits.make_split import make_split
from trainables.data.synthetic.dataset import write_synthetic
from trainables.fit_fold import FoldJob, fit_fold
from trainables.logits.predict_views import Inference
from trainables.logits.store import LogitStore
from trainables.logits.view import View
from trainables.logits.write_logits import Candidate, write_logits
from trainables.models.load import load_model
from trainables.models.segmentor import Segmentor, build_segmentor
from trainables.models.weights_file import save_weights
from trainables.recipe.augmentation import Augmentation
from trainables.recipe.recipe import Backbone, Recipe, Train, UPerNetHead
from trainables.training.fit import Trial, fit
from trainables.training.soup import Ingredient, Plan, make_soup

RECIPE = Recipe(
    backbone=Backbone(name="test_convnext", pretrained=False),
    head=UPerNetHead(channels=8, aux_channels=8),  # with batch norms
    augmentation=Augmentation(crop_px=64),
    train=Train(num_epochs=1, batch_size=2, num_workers=0, amp="off"),
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("full")
    index = read(read_card(write_synthetic(folder / "data", num_images=18, image_px=64, seed=0)))
    cache, split = Cache.open(index, folder / "cache"), make_split(index, seed=0)
    for seed in range(2):
        torch.manual_seed(seed)
        save_weights(folder / str(seed) / "best.safetensors", build_segmentor(RECIPE, index.num_classes).state_dict())
    return SimpleNamespace(index=index, cache=cache, split=split, folder=folder)


class Full:
    """A device that holds one image at a time, while `on`; it says so in cuBLAS's words, which have no class."""

    def __init__(self) -> None:
        self.on, self.refused = False, 0

    def forward_all(self, model: Segmentor, image: Tensor) -> Any:
        if self.on and len(image) > 1:
            self.refused += 1
            raise RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")
        return FORWARD(model, image)


FORWARD = Segmentor.forward_all


@pytest.fixture
def full(monkeypatch: pytest.MonkeyPatch) -> Iterator[Full]:
    device = Full()
    monkeypatch.setattr(Segmentor, "forward_all", lambda model, image: device.forward_all(model, image))
    yield device
    assert device.refused, "nothing was refused, so nothing was shown"


def validation(made: Any, out: Path) -> Any:
    """Batch norms learn from parts, so the training is not that of whole batches: the last weights are scored here."""
    return fit(Trial(RECIPE, made.cache, made.split, out, "cpu"), lambda done: None)["accumulate"]


def fold(made: Any, out: Path) -> Any:
    folds = deal_folds(made.index, made.split, 2, seed=0)
    job = FoldJob("m", RECIPE, 0, folds.split_of(0, made.index, made.split), made.split.fingerprint)
    return fit_fold(job, made.cache, out, device="cpu").epoch


def candidates_logits(made: Any, out: Path) -> Any:
    folders: Any = {"val": out / "val", "holdout": out / "holdout"}
    candidate = Candidate("0", RECIPE, made.folder / "0", 0.5)
    write_logits(candidate, made.cache, made.split, [View()], folders, device="cpu")
    return [LogitStore(folders["val"]).logits(View().name, image_id) for image_id in made.split.val_ids]


def soup(made: Any, out: Path) -> Any:
    """Batch norms' statistics are the mean of smaller batches', so the score may move a little."""
    weights = [made.folder / str(n) / "best.safetensors" for n in range(2)]
    first, second = (Ingredient(trial=str(n), epoch=1, miou=0.0, weights=weights[n]) for n in range(2))
    found = make_soup(Plan("s", RECIPE, (first, second)), made.cache, made.split, out, device="cpu")
    return np.array([step.miou for step in found.steps]).round(1)


def student(made: Any, out: Path) -> Any:
    model = load_model(RECIPE, made.index.num_classes, made.folder / "0" / "best.safetensors")
    inference = Inference.of(RECIPE, model, "cpu", 8)
    return [said for _, said in network_says(inference, made.cache, made.split.val_ids)]


def prediction(made: Any, out: Path) -> Any:
    run = make_tiny_run(out)
    bundle = read_bundle(export(BundleFacts("t", "data", "split"), run.ensemble, run.weights, out / "bundle"))
    return [label for _, label in Predictor(bundle, device="cpu").predict_many(run.images)]


@pytest.mark.parametrize("work", [candidates_logits, soup, student, prediction])
def test_what_does_not_fit_goes_through_in_halves(
    made: Any, full: Full, work: Callable[[Any, Path], Any], tmp_path: Path
) -> None:
    expected = work(made, tmp_path / "whole")
    full.on = True
    found = work(made, tmp_path / "halves")
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-3)


@pytest.mark.parametrize(("work", "result"), [(validation, 2), (fold, 1)])
def test_training_goes_on_in_micro_batches(
    made: Any, full: Full, work: Callable[[Any, Path], Any], result: int, tmp_path: Path
) -> None:
    full.on = True
    assert work(made, tmp_path) == result
