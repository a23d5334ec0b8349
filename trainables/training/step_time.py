"""Measures what training costs on this machine, without data: both passes and the update, over random images."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median

import torch

from trainables.device import autocast_dtype, float32_products, memory_layout, placed
from trainables.models.segmentor import adapt_as, build_segmentor
from trainables.recipe.recipe import Recipe
from trainables.training.losses import build_loss
from trainables.training.optim import build_optimizer
from trainables.training.state import checkpoint_gradients
from trainables.training.training_step import TrainingStep

NUM_STEPS = 3
NUM_WARM_UPS = 1


def train_image_s(recipe: Recipe, num_classes: int, device: str, clock: Callable[[], float]) -> float:
    """Seconds per training image: the median step of a micro-batch, after a warm-up. `clock` gives seconds.

    The network starts from random weights, which cost the same. Loading images is not counted. Raises ValueError where
    the network cannot be built, and RuntimeError where the step does not fit the device.
    """
    built = build_segmentor(recipe, num_classes, pretrained=False)
    adapt_as(built, recipe.backbone)
    model = placed(built, device)
    if recipe.train.grad_checkpointing:
        checkpoint_gradients(model)
    loss_cfg = recipe.loss.model_copy(update={"class_weights": "none"})  # others cost the same, and need the labels
    step = TrainingStep(model, build_loss(loss_cfg, num_classes).to(device)).train()
    optimizer = build_optimizer(model, recipe.optimizer)
    size, crop_px = recipe.train.batch_size // recipe.train.accumulate, recipe.augmentation.crop_px
    image = torch.randn(size, 3, crop_px, crop_px, device=device).contiguous(memory_format=memory_layout(device))
    label = torch.randint(num_classes, (size, crop_px, crop_px), device=device)
    dtype = autocast_dtype(recipe.train.amp, device)
    taken = []
    with float32_products(recipe.train.amp):
        for _ in range(NUM_WARM_UPS + NUM_STEPS):
            start = clock()
            with torch.autocast(torch.device(device).type, dtype=dtype, enabled=dtype is not None):
                loss = step(image, label, None)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            if device.startswith("cuda"):
                torch.cuda.synchronize(device)
            taken.append(clock() - start)
    return median(taken[NUM_WARM_UPS:]) / size
