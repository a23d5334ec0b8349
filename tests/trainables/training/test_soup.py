"""The mean of weights: by hand, by construction, and as a candidate's folder."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from trainables.data.cache import Cache
from trainables.data.card import read_card
from trainables.data.reader import read
from trainables.data.splits.make_split import make_split
from trainables.data.synthetic.dataset import write_synthetic
from trainables.logits.predict_views import Inference
from trainables.models.load import load_model
from trainables.models.segmentor import build_segmentor
from trainables.models.weights_file import save_weights
from trainables.recipe.augmentation import Augmentation
from trainables.recipe.recipe import Backbone, Loss, Recipe, SegFormerHead, Train, UPerNetHead
from trainables.training import soup as soup_module
from trainables.training.losses import build_loss
from trainables.training.soup import Ingredient, Plan, estimate_batch_norms, greedy, make_soup, mean_with, read_soup
from trainables.training.validate import validate


def ingredient(name: str, miou: float, weights: Path | None = None) -> Ingredient:
    return Ingredient(trial=name, epoch=1, miou=miou, weights=weights or Path(name))


def stir(pots: dict[str, Any], mious: dict[str, float], score: Any) -> Any:
    """`greedy` over weights in memory."""
    order = sorted(mious, key=lambda name: -mious[name])
    return greedy([ingredient(name, mious[name]) for name in order], score, read=lambda path: pots[str(path)])


def test_a_soup_of_linear_layers_is_their_mean_and_answers_with_the_mean_answer() -> None:
    torch.manual_seed(0)
    a, b, c = (nn.Linear(4, 3) for _ in range(3))
    pots = {name: layer.state_dict() for name, layer in zip("abc", (a, b, c), strict=True)}
    taken, _, mean = stir(pots, {"a": 0.3, "b": 0.2, "c": 0.1}, lambda weights: (1.0, weights))
    assert [one.trial for one in taken] == ["a", "b", "c"]
    soup = nn.Linear(4, 3)
    soup.load_state_dict(mean)
    x = torch.randn(5, 4)
    torch.testing.assert_close(soup(x), (a(x) + b(x) + c(x)) / 3)


@pytest.mark.parametrize("count", [2, 3, 7])
def test_a_soup_of_equal_weights_is_those_weights_bit_for_bit(count: int) -> None:
    weights = {"w": torch.randn(1000) * 10 ** torch.empty(1000).uniform_(-30, 30), "seen": torch.tensor(7)}
    pots = {str(n): weights for n in range(count)}
    _, _, mean = stir(pots, dict.fromkeys(pots, 0.5), lambda weights: (0.5, weights))
    assert torch.equal(mean["w"], weights["w"])
    assert mean["seen"] == 7


@pytest.mark.parametrize("seed", range(20))
def test_a_soup_never_ends_below_its_best_ingredient(seed: int) -> None:
    rng = np.random.default_rng(seed)
    target = torch.from_numpy(rng.standard_normal(6))
    pots = {str(n): {"w": target + torch.from_numpy(rng.standard_normal(6))} for n in range(6)}

    def miou(weights: Any) -> float:
        return float(torch.exp(-(weights["w"] - target).square().mean()))

    mious = {name: miou(weights) for name, weights in pots.items()}
    taken, steps, mean = stir(pots, mious, lambda weights: (miou(weights), weights))
    assert miou(mean) >= max(mious.values())
    assert miou(mean) == max([mious[taken[0].trial], *(step.miou for step in steps if step.taken)])
    by_hand = torch.stack([pots[one.trial]["w"] for one in taken]).mean(0)
    torch.testing.assert_close(mean["w"], by_hand)


def test_an_ingredient_that_harms_leaves_the_sum_as_it_was() -> None:
    pots = {"a": {"w": torch.zeros(1)}, "bad": {"w": torch.full((1,), 99.0)}, "b": {"w": torch.ones(1)}}
    mious = {"a": 0.5, "bad": 0.4, "b": 0.3}
    taken, steps, mean = stir(pots, mious, lambda weights: (0.6 if weights["w"] < 1 else 0.1, weights))
    assert [one.trial for one in taken] == ["a", "b"]
    assert [step.taken for step in steps] == [False, True]
    assert mean["w"] == 0.5


def test_other_architectures_are_refused_by_name() -> None:
    pots = {"a": {"head.w": torch.zeros(3)}, "b": {"head.w": torch.zeros(4)}, "c": {"neck.w": torch.zeros(3)}}
    score = pytest.fail
    with pytest.raises(ValueError, match=r"one architecture, got head\.w \(4,\) in b epoch 1 .* and \(3,\) in a"):
        stir({k: pots[k] for k in "ab"}, {"a": 0.5, "b": 0.4}, score)
    with pytest.raises(ValueError, match=r"got head\.w absent in c epoch 1"):
        stir({k: pots[k] for k in "ac"}, {"a": 0.5, "c": 0.4}, score)


def test_low_precision_is_averaged_in_its_own_type() -> None:
    a, b = (torch.randn(50).half() for _ in range(2))
    mean = mean_with({"w": a.double()}, 1, {"w": b}, {"w": a})["w"]
    assert mean.dtype == torch.float16
    assert torch.equal(mean, ((a.double() + b.double()) / 2).half())


def test_batch_norms_take_the_mean_over_the_batches_of_the_images() -> None:
    class Tiny(nn.Module):
        mean, std = (0.1, 0.2, 0.3), (0.5, 0.5, 0.4)

        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm2d(3)
            self.norm.running_mean.fill_(99.0)

        def forward(self, image: Any) -> Any:
            return self.norm(image)

    model = Tiny().eval()
    batches = [torch.randint(0, 256, (2, 3, 5, 4), dtype=torch.uint8) for _ in range(3)]
    recipe = Recipe(backbone=Backbone(name="x"), head=SegFormerHead(), train=Train(amp="off"))
    estimate_batch_norms(model, batches, recipe, "cpu")  # type: ignore[arg-type]
    mean, std = np.array(Tiny.mean), np.array(Tiny.std)
    seen = [(b.numpy().transpose(1, 0, 2, 3).reshape(3, -1) / 255 - mean[:, None]) / std[:, None] for b in batches]
    np.testing.assert_allclose(model.norm.running_mean, np.mean([x.mean(1) for x in seen], axis=0), rtol=1e-5)
    np.testing.assert_allclose(model.norm.running_var, np.mean([x.var(1, ddof=1) for x in seen], axis=0), rtol=1e-5)
    assert not model.training
    assert not model.norm.training


def test_batches_that_do_not_fit_are_halved_and_the_norms_left_as_they_were() -> None:
    class Small(nn.Module):
        mean, std = (0.0,) * 3, (1.0,) * 3

        def __init__(self) -> None:
            super().__init__()
            self.norm, self.sizes = nn.BatchNorm2d(3, momentum=0.3), list[int]()

        def forward(self, image: Any) -> Any:
            self.sizes.append(len(image))
            if len(image) > 2:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
            return self.norm(image)

    model = Small().eval()
    batches = [torch.randint(0, 256, (n, 3, 5, 4), dtype=torch.uint8) for n in (4, 3)]
    recipe = Recipe(backbone=Backbone(name="x"), head=SegFormerHead(), train=Train(amp="off"))
    estimate_batch_norms(model, batches, recipe, "cpu")  # type: ignore[arg-type]
    assert model.sizes == [4, 2, 2, 2, 1]
    assert model.norm.momentum == 0.3
    assert not model.training


@pytest.fixture(scope="module", params=["layer norms", "batch norms"])
def made(request: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A soup of two random networks; the ingredients claim so little that the second is taken."""
    folder = tmp_path_factory.mktemp("soup")
    index = read(read_card(write_synthetic(folder / "data", num_images=18, image_px=64, seed=0)))
    cache, split = Cache.open(index, folder / "cache"), make_split(index, seed=0)
    head = SegFormerHead(channels=16) if request.param == "layer norms" else UPerNetHead(channels=8, aux_channels=8)
    recipe = Recipe(
        backbone=Backbone(name="test_convnext", pretrained=False),
        head=head,
        augmentation=Augmentation(crop_px=32, short_px=32),
        train=Train(batch_size=4, amp="off"),
    )
    ingredients = []
    for n in range(2):
        torch.manual_seed(n)
        path = folder / f"{n}.safetensors"
        save_weights(path, build_segmentor(recipe, index.num_classes).state_dict())
        ingredients.append(ingredient(f"0000{n}", -n / 10, path))
    plan = Plan("soup-00000", recipe, tuple(ingredients))
    soup = make_soup(plan, cache, split, folder / "soup", device="cpu")
    return SimpleNamespace(plan=plan, soup=soup, cache=cache, split=split, folder=folder / "soup")


def test_a_soups_folder_is_a_trials_and_its_score_can_be_had_again(made: Any) -> None:
    assert made.soup.is_offered
    assert made.soup.best.trial == "00000"
    about = json.loads((made.folder / "best.json").read_text())
    assert about["ingredients"] == ["00000 epoch 1", "00001 epoch 1"]
    recipe = Recipe.model_validate(about["recipe"])
    model = load_model(recipe, len(about["classes"]), made.folder / "best.safetensors")
    loss = build_loss(Loss(), len(about["classes"]))
    again = validate(Inference(model, 32, "cpu", 4, "off"), loss, made.cache, made.split.val_ids)
    assert again.miou == about["miou"] == made.soup.miou


def test_a_finished_soup_is_not_made_again_and_an_unfinished_one_is_the_same(
    made: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {path: path.read_bytes() for path in made.folder.iterdir()}
    (made.folder / "soup.json").unlink()
    assert make_soup(made.plan, made.cache, made.split, made.folder, device="cpu") == made.soup
    assert {path: path.read_bytes() for path in made.folder.iterdir()} == files
    monkeypatch.setattr(soup_module, "greedy", pytest.fail)
    assert (
        make_soup(made.plan, made.cache, made.split, made.folder, device="cpu") == made.soup == read_soup(made.folder)
    )


def test_a_soup_that_is_no_better_is_not_offered(made: Any, tmp_path: Path) -> None:
    best, other = made.plan.ingredients
    proud = (best.model_copy(update={"miou": 1.0}), other)
    soup = make_soup(Plan("soup-00000", made.plan.recipe, proud), made.cache, made.split, tmp_path, device="cpu")
    assert not soup.is_offered
    assert "no better than 00000 epoch 1" in str(soup)
    assert [path.name for path in tmp_path.iterdir()] == ["soup.json"]
