"""Logits, votes, soups and predictions of a device against the CPU's."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from factories import TinyRun, make_tiny_run
from gpu_recipes import BACKBONES, RECENT, Train, recipe_of
from torch.export.passes import move_to_device_pass

from analysis.bundle.export import BundleFacts, export
from analysis.bundle.graphs import Graph, Sizes
from analysis.bundle.manifest import Bundle, read_bundle
from analysis.bundle.predictor import Predictor
from analysis.bundle.torch_export import write_torch_export
from analysis.voting.executor import LocalExecutor
from trainables.data.cache import Cache
from trainables.data.index import Split
from trainables.device import float32_products, memory_layout, placed
from trainables.logits.predict_views import Inference, view_logits
from trainables.logits.view import View
from trainables.models.segmentor import build_segmentor
from trainables.recipe.recipe import Amp
from trainables.training.soup import Ingredient, Plan, make_soup


def agreement(one: np.ndarray, two: np.ndarray) -> float:
    return float((one == two).mean())


@pytest.mark.parametrize("backbone", [*BACKBONES, *RECENT])
def test_logits_are_the_cpus(data: tuple[Cache, Split], device: str, backbone: str) -> None:
    cache, split = data
    torch.manual_seed(0)
    model = build_segmentor(recipe_of(backbone), cache.index.num_classes, pretrained=False).eval()
    found = {}
    for place in ("cpu", device):
        inference = Inference(placed(model, place), None, place, 2, "off")
        found[place] = dict(view_logits(inference, cache, split.val_ids, View()))
    for image_id, expected in found["cpu"].items():
        np.testing.assert_allclose(found[device][image_id], expected, atol=2e-2, rtol=1e-2)
        assert agreement(found[device][image_id].argmax(0), expected.argmax(0)) > 0.995


@pytest.mark.parametrize("head", ["segformer", "knet", "mask_classification"])
def test_stored_logits_have_more_than_bfloat16s_bits(data: tuple[Cache, Split], device: str, head: str) -> None:
    """Under autocast too: eight bits tie, and ties go to the lowest class."""
    cache, split = data
    torch.manual_seed(0)
    model = placed(build_segmentor(recipe_of(head=head), cache.index.num_classes, pretrained=False), device)
    [(_, logits), *_] = view_logits(Inference(model, None, device, 2, "bf16"), cache, split.val_ids, View())
    full = torch.from_numpy(logits).float()
    assert (full.to(torch.bfloat16).float() != full).float().mean() > 0.5


def test_images_and_filters_lie_as_the_device_reads_them(data: tuple[Cache, Split], device: str) -> None:
    cache, split = data
    seen = []
    model = placed(build_segmentor(recipe_of(), cache.index.num_classes, pretrained=False), device)
    model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    next(view_logits(Inference(model, None, device, 2, "auto"), cache, split.val_ids, View()))
    assert all(image.is_contiguous(memory_format=memory_layout(device)) for image in seen)
    filters = [p for p in model.parameters() if p.ndim == 4]
    assert all(one.is_contiguous(memory_format=memory_layout(device)) for one in filters)


def test_votes_and_weights_are_the_cpus(judged_with: Callable[..., bytes], device: str) -> None:
    on_cpu, on_device = (json.loads(judged_with(LocalExecutor(device=place))) for place in (None, device))
    for one, two in zip(on_cpu["rules"], on_device["rules"], strict=True):
        assert one["name"] == two["name"]
        assert two["holdout"]["miou"] == pytest.approx(one["holdout"]["miou"], abs=2e-3)


def test_a_soup_takes_the_same_ingredients(
    train: Train, data: tuple[Cache, Split], device: str, tmp_path: Path
) -> None:
    recipe = recipe_of("resnet18", num_epochs=3, amp="off")
    for n in range(2):
        train(recipe.model_copy(update={"seed": n}), str(n))
    kept = [tmp_path / str(n) / "best.safetensors" for n in range(2)]
    scores = [json.loads((path.parent / "best.json").read_text())["miou"] for path in kept]
    made = [Ingredient(trial=str(n), epoch=1, miou=scores[n], weights=kept[n]) for n in range(2)]
    ingredients = tuple(sorted(made, key=lambda one: -one.miou))
    plan = Plan("soup", recipe, ingredients)
    on_cpu, on_device = (make_soup(plan, *data, tmp_path / f"soup-{place}", device=place) for place in ("cpu", device))
    assert [step.taken for step in on_device.steps] == [step.taken for step in on_cpu.steps]
    assert on_device.miou == pytest.approx(on_cpu.miou, abs=2e-3)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[TinyRun, Bundle]:
    folder = tmp_path_factory.mktemp("tiny")
    run = make_tiny_run(folder / "trials")
    facts = BundleFacts("trash", "data", "split")
    return run, read_bundle(export(facts, run.ensemble, run.weights, folder / "bundle"))


def computed_in(bundle: Bundle, amp: Amp) -> Bundle:
    """The bundle, as if its members had been trained so."""
    members = []
    for member in bundle.manifest.members:
        train = member.recipe.train.model_copy(update={"amp": amp})
        members.append(member.model_copy(update={"recipe": member.recipe.model_copy(update={"train": train})}))
    return replace(bundle, manifest=bundle.manifest.model_copy(update={"members": tuple(members)}))


@pytest.mark.parametrize(
    ("amp", "options", "same"),
    [("off", {}, 0.999), ("auto", {}, 0.99), ("off", {"half": True}, 0.99), ("off", {"compiled": True}, 0.999)],
    ids=["plain", "auto", "half", "compile"],
)
def test_a_bundle_predicts_what_it_does_on_the_cpu(
    tiny: tuple[TinyRun, Bundle], device: str, amp: Amp, options: dict[str, Any], same: float
) -> None:
    """Of networks that were never trained, so that classes are close: 'auto', bf16 on a GPU, changes 0.2% of pixels."""
    if options.get("half") and device == "cpu":
        pytest.skip("float16 needs a GPU")
    run, bundle = tiny
    on_cpu = Predictor(computed_in(bundle, "off"), device="cpu")
    on_device = Predictor(computed_in(bundle, amp), device=device, **options)
    for image in run.images.values():
        expected, found = (predictor.predict(image) for predictor in (on_cpu, on_device))
        assert agreement(found, expected) > same


def test_an_exported_network_computes_the_same_on_the_device(device: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = build_segmentor(recipe_of(), 5, pretrained=False).eval()
    write_torch_export(Graph(network), tmp_path / "one.pt2", Sizes(32, (64, 96)))
    program = torch.export.load(tmp_path / "one.pt2")
    moved = move_to_device_pass(torch.export.load(tmp_path / "one.pt2"), device)
    image = torch.randint(0, 256, (2, 3, 64, 96), dtype=torch.uint8)
    with float32_products("off"):
        found = moved.module()(image.to(device)).cpu()
    torch.testing.assert_close(found, program.module()(image), rtol=1e-3, atol=1e-3)
