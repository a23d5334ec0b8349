"""Model soups: the mean of several checkpoints' weights, as a candidate that costs no more to run than one of them.

Ingredients have one architecture: a trial's best and last epochs, or the best weights of trials that started from the
same pretrained ones. A soup's folder has soup.json and, where the mean is better on val than its best ingredient,
best.safetensors and best.json, as a trial has them.

Greedy (Wortsman et al. 2022, recipe 1): from the best ingredient on, each next is kept where the mean's val mIoU does
not fall. Batch norms' statistics belong to no mean of weights: they are estimated again from training images (Izmailov
et al. 2018, sec. 3.2). Val chooses among means here, as it chooses among epochs; the hold-out takes no part.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import ValidationError
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from trainables.data.augment.normalise import normalise
from trainables.data.augment.train_set import TrainSet, train_loader
from trainables.data.cache import Cache
from trainables.data.index import Split
from trainables.device import autocast_dtype, float32_products, memory_layout, placed
from trainables.files import write_text
from trainables.logits.predict_views import Inference
from trainables.models.segmentor import Segmentor, build_segmentor
from trainables.models.weights_file import load_weights
from trainables.plain_json import read_object
from trainables.recipe.config import Config
from trainables.recipe.recipe import Loss, Recipe
from trainables.training.checkpoint import about_best, save_best
from trainables.training.losses import build_loss
from trainables.training.validate import validate
from trainables.worker_process import is_out_of_memory, release_memory

SOUP_JSON = "soup.json"
BATCH_NORM_IMAGES = 64  # that batch norms see again; at 6 x 6 positions a stage's mean has a relative error of 2%

Weights = Mapping[str, Tensor]
Score = Callable[[Weights], tuple[float, Weights]]  # -> val mIoU, and the weights as they were scored


class Ingredient(Config):
    """The weights of one epoch of one trial."""

    trial: str
    epoch: int
    miou: float  # on val, as the trial itself measured it
    weights: Path

    @property
    def name(self) -> str:
        return f"{self.trial} epoch {self.epoch}"


class Step(Config):
    """The score of the mean with one more ingredient, and whether that one was kept."""

    ingredient: str
    miou: float
    taken: bool


class Soup(Config):
    """soup.json. `ingredients` are those that were taken, the best first."""

    name: str
    planned: tuple[Ingredient, ...]
    ingredients: tuple[Ingredient, ...]
    steps: tuple[Step, ...]
    miou: float

    @property
    def best(self) -> Ingredient:
        """The best ingredient, where the soup began."""
        return self.planned[0]

    @property
    def is_offered(self) -> bool:
        """Whether it is better than its best ingredient alone."""
        return len(self.ingredients) > 1 and self.miou > self.best.miou

    def __str__(self) -> str:
        parts = " + ".join(one.name for one in self.ingredients)
        if self.is_offered:
            return f"{self.name}: {parts}, mIoU {self.miou:.4f} on val (best ingredient {self.best.miou:.4f})"
        tried = len(self.planned) - 1
        return f"{self.name}: no better than {self.best.name} ({self.best.miou:.4f}) with any of {tried}, not offered"


@dataclass(frozen=True)
class Plan:
    """A soup to be made: `recipe` is that of the best ingredient, the first."""

    name: str
    recipe: Recipe
    ingredients: tuple[Ingredient, ...]


def make_soup(
    plan: Plan,
    cache: Cache,
    split: Split,
    folder: Path,
    *,
    device: str,
    read: Callable[[Path], Weights] = load_weights,
) -> Soup:
    """Make the soup, or read what an earlier call made of the same plan. `read` reads an ingredient's weights.

    Raises ValueError where an ingredient was cut short or is of another architecture.
    """
    done = read_soup(folder)
    if done is not None and done.planned == plan.ingredients:
        return done
    taken, steps, weights = greedy(plan.ingredients, scorer(plan.recipe, cache, split, device), read)
    soup = Soup(
        name=plan.name,
        planned=plan.ingredients,
        ingredients=tuple(taken),
        steps=tuple(steps),
        miou=max([taken[0].miou, *(step.miou for step in steps if step.taken)]),
    )
    if soup.is_offered:
        about = about_best(plan.recipe, cache.index, split, miou=soup.miou, epoch=soup.best.epoch)
        save_best(folder, weights, about | {"ingredients": [one.name for one in taken]})
    write_text(folder / SOUP_JSON, soup.model_dump_json(indent=1) + "\n")  # last: it says that all is there
    return soup


def read_soup(folder: Path) -> Soup | None:
    """The soup that `make_soup` wrote to `folder`; None where it did not finish."""
    path = folder / SOUP_JSON
    if not path.is_file():
        return None
    try:
        return Soup.model_validate(read_object(path, "delete its folder and resume the run"))
    except ValidationError as error:
        raise ValueError(
            f"{path} must be what the soup stage wrote, got {error.error_count()} faults (the first: "
            f"{error.errors()[0]['msg']}); delete its folder and resume the run"
        ) from error


def greedy(
    ingredients: Sequence[Ingredient], score: Score, read: Callable[[Path], Weights] = load_weights
) -> tuple[list[Ingredient], list[Step], Weights]:
    """Those taken, every step, and the mean's weights as scored; `ingredients` come best first.

    The mIoU never falls below the first one's: that of the mean is its last taken step's.
    """
    assert list(ingredients) == sorted(ingredients, key=lambda one: -one.miou), "the best ingredient comes first"
    first = ingredients[0]
    kept = read(first.weights)
    total = {name: tensor.to(torch.float64, copy=True) for name, tensor in kept.items() if tensor.is_floating_point()}
    taken, steps, best = [first], list[Step](), first.miou
    for one in ingredients[1:]:
        weights = read(one.weights)
        check_same(first, kept, one, weights)
        miou, scored = score(mean_with(total, len(taken), weights, kept))
        steps.append(Step(ingredient=one.name, miou=miou, taken=miou >= best))
        if miou >= best:
            best, kept = miou, scored
            taken.append(one)
            for name, tensor in total.items():
                tensor += weights[name]
    return taken, steps, kept


def mean_with(total: Weights, count: int, weights: Weights, like: Weights) -> dict[str, Tensor]:
    """The mean of `count` weights whose sum is `total` (float64) and of `weights`, in their own precision.

    The sum of float32 values in float64 has 29 bits to spare, so the mean of equal weights is those weights, bit for
    bit. Counters (integers) are those of `like`.
    """
    means = {name: ((total[name] + weights[name]) / (count + 1)).to(weights[name].dtype) for name in total}
    return {name: means.get(name, tensor) for name, tensor in like.items()}


def check_same(first: Ingredient, wanted: Weights, other: Ingredient, found: Weights) -> None:
    """Raise ValueError, by name, where two ingredients are not of one architecture."""
    shapes = {name: tuple(tensor.shape) for name, tensor in wanted.items()}
    others = {name: tuple(tensor.shape) for name, tensor in found.items()}
    for name in sorted(shapes.keys() | others.keys()):
        if shapes.get(name) != others.get(name):
            raise ValueError(
                f"a soup takes weights of one architecture, got {name} {others.get(name, 'absent')} in {other.name} "
                f"({other.weights}) and {shapes.get(name, 'absent')} in {first.name}; leave one of them out"
            )


def scorer(recipe: Recipe, cache: Cache, split: Split, device: str) -> Score:
    """A function that scores weights as `recipe`'s trial does its own, once batch norms' statistics are estimated."""
    model = placed(build_segmentor(recipe, cache.index.num_classes, pretrained=False), device)
    loss = build_loss(Loss(), cache.index.num_classes).to(device)  # not read: what decides is the mIoU
    micro_batch = max(1, recipe.train.batch_size // recipe.train.accumulate)
    images = training_images(recipe, cache, split, micro_batch) if has_batch_norm(model) else []

    def score(weights: Weights) -> tuple[float, Weights]:
        model.load_state_dict(weights)
        estimate_batch_norms(model, images, recipe, device)
        scores = validate(Inference.of(recipe, model, device, micro_batch), loss, cache, split.val_ids)
        return scores.miou, {name: tensor.to("cpu", copy=True) for name, tensor in model.state_dict().items()}

    return score


def has_batch_norm(model: nn.Module) -> bool:
    return any(isinstance(module, _BatchNorm) for module in model.modules())


def training_images(recipe: Recipe, cache: Cache, split: Split, batch_size: int) -> list[Tensor]:
    """Batches (B,3,crop,crop) uint8 of the first epoch as the trial saw them, about BATCH_NORM_IMAGES in all."""
    dataset = TrainSet(cache, split.train_ids, recipe.augmentation, recipe.seed)
    loader = train_loader(dataset, batch_size, 0, epoch=0)
    return [image for image, _, _ in itertools.islice(loader, -(-BATCH_NORM_IMAGES // batch_size))]


def estimate_batch_norms(model: Segmentor, images: Sequence[Tensor], recipe: Recipe, device: str) -> None:
    """Set running statistics to the plain mean over `images` (batches of B,3,H,W uint8); without any, they stay.

    As torch's `update_bn`, but for a frozen backbone, whose statistics are part of its weights and stay too. Where a
    batch does not fit the device, all of them are halved.
    """
    while images:
        try:
            _estimate(model, images, recipe, device)
            return
        except Exception as error:
            largest = max(map(len, images))
            if largest == 1 or not is_out_of_memory(error):
                raise
        release_memory()  # after the exception, whose frames held what did not fit
        images = [half for batch in images for half in torch.split(batch, largest // 2)]


def _estimate(model: Segmentor, images: Sequence[Tensor], recipe: Recipe, device: str) -> None:
    was_training, amp, dtype = model.training, recipe.train.amp, autocast_dtype(recipe.train.amp, device)
    learning = (module for module in model.train().modules() if isinstance(module, _BatchNorm) and module.training)
    momenta = {norm: norm.momentum for norm in learning}
    for norm in momenta:
        norm.reset_running_stats()
        norm.momentum = None  # the plain mean
    torch.manual_seed(recipe.seed)  # dropout is on, as where the statistics came from: equal masks for equal numbers
    autocast = torch.autocast(torch.device(device).type, dtype=dtype, enabled=dtype is not None)
    try:
        with torch.no_grad(), float32_products(amp), autocast:
            for batch in images:
                shown = batch.to(device).contiguous(memory_format=memory_layout(device))
                model(normalise(shown, model.mean, model.std))
    finally:
        for norm, momentum in momenta.items():
            norm.momentum = momentum
        model.train(was_training)
