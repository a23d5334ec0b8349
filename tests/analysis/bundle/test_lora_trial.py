"""A trial with low-rank updates on its way to users: its checkpoints, soup, bundle and load.py hold the ordinary
network, and give the labels of the adapted one."""

from __future__ import annotations

import json
import runpy
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from factories import make_ensemble, make_member
from numpy.typing import NDArray
from torch import Tensor

from analysis.bundle import standalone
from analysis.bundle.export import BundleFacts, export
from analysis.bundle.manifest import read_bundle
from analysis.bundle.predictor import Predictor
from trainables.data.cache import Cache
from trainables.data.card import read_card
from trainables.data.reader import read
from trainables.data.splits.make_split import make_split
from trainables.data.synthetic.dataset import write_synthetic
from trainables.logits.predict_views import Inference, at_label_size, view_logits
from trainables.logits.view import View
from trainables.models.lora import merged_weights
from trainables.models.segmentor import Segmentor, adapt_as, build_segmentor
from trainables.recipe.augmentation import Augmentation
from trainables.recipe.recipe import Backbone, LinearHead, Loss, Optimizer, Recipe, Train
from trainables.training.checkpoint import load_state, read_snapshot, snapshots
from trainables.training.fit import Trial, fit
from trainables.training.soup import Ingredient, Plan, make_soup

RECIPE = Recipe(
    backbone=Backbone(name="test_vit", pretrained=False, lora_rank=2),
    head=LinearHead(dropout=0.0),  # no batch norm, whose statistics a soup estimates anew
    augmentation=Augmentation(crop_px=64, short_px=64),
    loss=Loss(name="dice"),  # it shows several classes after a few updates
    optimizer=Optimizer(lr=1e-2, warmup_epochs=0),
    train=Train(num_epochs=3, batch_size=2, num_workers=0, ema_decay=0.9, amp="off"),
)
Labels = Mapping[str, NDArray[np.uint8]]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A trial of three epochs, the soup of its two snapshots, and the adapted weights of every epoch."""
    folder = tmp_path_factory.mktemp("lora")
    index = read(read_card(write_synthetic(folder / "data", num_images=18, image_px=64, seed=0)))
    cache, split = Cache.open(index, folder / "cache"), make_split(index, seed=0)
    states: list[dict[str, Tensor]] = []
    trial = Trial(RECIPE, cache, split, folder / "trial", "cpu", snapshots=2)
    fit(trial, lambda done: states.append(load_state(done.checkpoint_dir)["ema"]))
    ingredients = tuple(
        Ingredient(
            trial="0000", epoch=read_snapshot(path)[0], miou=-1.0 - n, weights=path
        )  # so low that both are taken
        for n, path in enumerate(snapshots(folder / "trial"))
    )
    soup = make_soup(Plan("soup", RECIPE, ingredients), cache, split, folder / "soup", device="cpu")
    return SimpleNamespace(folder=folder, cache=cache, split=split, states=states, soup=soup)


def adapted(made: Any, epoch: int) -> Segmentor:
    """The network as it was trained."""
    model = build_segmentor(RECIPE, made.cache.index.num_classes)
    adapt_as(model, RECIPE.backbone)
    model.load_state_dict(made.states[epoch - 1])
    return model.eval()


def expected_labels(made: Any, model: Segmentor) -> Labels:
    inference = Inference(model, RECIPE.augmentation.short_px, "cpu", 1, "off")
    found = {}
    for image_id, logits in view_logits(inference, made.cache, made.split.val_ids, View()):
        full = at_label_size(torch.from_numpy(logits)[None], made.cache.size(image_id))
        found[image_id] = full[0].argmax(0).numpy().astype(np.uint8)
    return found


def assert_ships(made: Any, name: str, expected: Labels, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bundle of what lies in the folder `name` gives these labels, by the project's predictor and by its own
    load.py."""
    index = made.cache.index
    member = make_member(name, recipe_hash=RECIPE.hash, family=RECIPE.family)
    facts = BundleFacts("trash", index.fingerprint, made.split.fingerprint)
    weights = {name: (made.folder / name / "best.safetensors",)}
    out = export(facts, make_ensemble(index.classes, [member], "best_single"), weights, made.folder / f"{name}-bundle")
    monkeypatch.syspath_prepend(str(standalone.FOLDER))
    alone = runpy.run_path(str(out / "load.py"))["load"](out)
    predictor = Predictor(read_bundle(out), device="cpu", batch_size=1)
    for image_id, label in expected.items():
        image = made.cache.image(image_id)
        np.testing.assert_array_equal(predictor.predict(image), label)
        assert (alone(image) == label).mean() > 0.9995
    assert len(np.unique(np.stack(list(expected.values())))) > 1


def test_the_bundle_of_the_trial_gives_its_labels(made: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    epoch = json.loads((made.folder / "trial" / "best.json").read_text())["epoch"]
    model, plain = adapted(made, epoch), build_segmentor(RECIPE, made.cache.index.num_classes)
    updates = [value for key, value in model.state_dict().items() if key.endswith("weight.0.b")]
    assert updates
    assert all(bool(update.any()) for update in updates)
    assert merged_weights(model).keys() == plain.state_dict().keys()
    assert_ships(made, "trial", expected_labels(made, model), monkeypatch)


def test_the_bundle_of_a_soup_gives_the_labels_of_the_mean_of_merged_weights(
    made: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert made.soup.is_offered
    first, second = (merged_weights(adapted(made, one.epoch)) for one in made.soup.ingredients)
    model = build_segmentor(RECIPE, made.cache.index.num_classes).eval()
    model.load_state_dict(
        {key: torch.lerp(value.double(), second[key].double(), 0.5).to(value) for key, value in first.items()}
    )
    assert_ships(made, "soup", expected_labels(made, model), monkeypatch)
