"""The training state of a trial, as one value that can be saved and restored.

It holds model, EMA, optimiser, schedule, scaler, counters and the best score.
"""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from timm.scheduler.cosine_lr import CosineLRScheduler
from timm.utils.model_ema import ModelEmaV3
from torch import nn

from trainables.data.index import Split
from trainables.device import placed
from trainables.models.segmentor import Segmentor, adapt_as, build_segmentor
from trainables.models.weights_file import fingerprint, load_weights
from trainables.ranks import ALONE, Ranks
from trainables.recipe.recipe import Recipe
from trainables.training.checkpoint import load_state, random_states, restore_random_states
from trainables.training.consistency import ConsistencyStep
from trainables.training.losses import SegmentationLoss, build_loss
from trainables.training.optim import build_optimizer, build_schedule
from trainables.training.sync_batch_norm import synchronise
from trainables.training.training_step import TrainingStep, compiled
from trainables.training.trial import Trial


@dataclass
class TrainingState:
    """A trial between two updates. `identity` describes recipe and data; only an equal trial may resume it."""

    model: Segmentor
    step: nn.Module  # a micro-batch -> its loss, through `model`
    ema: ModelEmaV3 | None
    optimizer: torch.optim.Optimizer
    schedule: CosineLRScheduler
    scaler: torch.amp.GradScaler
    identity: dict[str, str]
    accumulate: int  # micro-batches that a batch is split in, by the recipe or because the device holds no larger ones
    planned_updates: int  # of the whole trial
    ranks: Ranks = ALONE
    num_updates: int = 0
    epoch: int = 0  # finished ones
    best_miou: float = -1.0  # below any score, so that the first epoch is the best so far
    best_epoch: int = 0
    metrics: dict[str, Any] = field(default_factory=dict)  # the last epoch's

    @property
    def evaluated(self) -> Segmentor:
        """The weights that are validated and shipped: the EMA's where there is one."""
        return self.model if self.ema is None else self.ema.module

    def capture(self) -> dict[str, Any]:
        """Everything that the rest of the run depends on, random states included."""
        return {
            "model": self.model.state_dict(),
            "ema": None if self.ema is None else self.ema.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "scaler": self.scaler.state_dict(),
            "identity": self.identity,
            "accumulate": self.accumulate,
            "num_updates": self.num_updates,
            "epoch": self.epoch,
            "best": [self.best_miou, self.best_epoch],
            "metrics": self.metrics,
            "random": random_states(),
        }

    def restore(self, folder: Path) -> None:
        """Go on from `folder`/state.pt. ValueError where it is cut short or another trial's."""
        saved = load_state(folder)
        for key, mine in self.identity.items():
            if saved.get("identity", {}).get(key) != mine:
                raise ValueError(
                    f"a trial resumes from its own checkpoint only: {key} must be {mine!r}, got "
                    f"{saved.get('identity', {}).get(key)!r} in {folder}; give that trial's folder or start afresh"
                )
        self.model.load_state_dict(saved["model"])
        if self.ema is not None:
            self.ema.module.load_state_dict(saved["ema"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.schedule.load_state_dict(saved["schedule"])
        self.scaler.load_state_dict(saved["scaler"])
        self.accumulate = max(self.accumulate, saved["accumulate"])
        self.num_updates, self.epoch = saved["num_updates"], saved["epoch"]
        self.best_miou, self.best_epoch = saved["best"]
        self.metrics = saved["metrics"]
        restore_random_states(saved["random"])


def prepare(
    trial: Trial,
    autocast: torch.dtype | None,
    *,
    resume_from: Path | None,
    accumulate: int | None = None,
    ranks: Ranks = ALONE,
) -> tuple[TrainingState, SegmentationLoss]:
    """Seed every global generator, build the trial and, where asked, go on from the checkpoint folder `resume_from`.

    `autocast` float16 turns gradient scaling on; `accumulate` overrides the recipe's. Raises ValueError where
    activations shall be recomputed in a backbone that has no switch for it.
    """
    recipe, device = trial.recipe, trial.device
    random.seed(recipe.seed)
    np.random.seed(recipe.seed % 2**32)
    torch.manual_seed(recipe.seed)  # of every device
    model = _build_model(trial, ranks, pretrained=None if resume_from is None else False)
    loss = _loss_of(trial)
    cfg, train = recipe.optimizer, recipe.train
    optimizer = build_optimizer(model, cfg)
    # without a warm-up the average of a short run would mostly hold its random start
    ema = None if train.ema_decay is None else ModelEmaV3(model, decay=train.ema_decay, use_warmup=True)
    step = ranks.averaging(_step_of(trial, model, loss), device)
    state = TrainingState(
        model=model,
        step=compiled(step, device) if train.compile else step,
        ema=ema,
        optimizer=optimizer,
        schedule=build_schedule(optimizer, cfg, train.num_epochs, steps_of(trial)),
        scaler=torch.amp.GradScaler(torch.device(device).type, enabled=autocast == torch.float16),
        identity=_identity(trial),
        accumulate=accumulate or train.accumulate,
        planned_updates=train.num_epochs * steps_of(trial),
        ranks=ranks,
    )
    if resume_from is not None:
        state.restore(resume_from)
    return state, loss


def _identity(trial: Trial) -> dict[str, str]:
    found = {"recipe": trial.recipe.hash, "data": trial.cache.index.fingerprint, "split": trial.split.fingerprint}
    if trial.soft is not None:
        found["teacher"] = trial.soft.identity
    if trial.extra is not None:
        images = hashlib.sha256("\n".join(trial.split.train_ids).encode()).hexdigest()[:16]
        found["extra images"] = f"{images} {trial.extra.count} {trial.extra.share}"
    if trial.consistency is not None:
        found["consistency"] = trial.consistency.identity
    if trial.start_from is not None:
        found["start"] = fingerprint(trial.start_from)
    return found


def _step_of(trial: Trial, model: Segmentor, loss: SegmentationLoss) -> TrainingStep:
    if trial.consistency is not None:
        return ConsistencyStep(model, loss, trial.consistency)
    return TrainingStep(model, loss, trial.soft)


def _loss_of(trial: Trial) -> SegmentationLoss:
    cfg, index = trial.recipe.loss, trial.cache.index
    pixels = trial.cache.class_pixels(trial.split.train_ids) if cfg.class_weights != "none" else None
    return build_loss(cfg, index.num_classes, pixels, index.ignore_index).to(trial.device)


def _build_model(trial: Trial, ranks: Ranks, *, pretrained: bool | None) -> Segmentor:
    recipe, device = trial.recipe, trial.device
    pretrained = False if trial.start_from is not None else pretrained
    built = build_segmentor(recipe, trial.cache.index.num_classes, pretrained=pretrained)
    if trial.start_from is not None:
        built.load_state_dict(load_weights(trial.start_from))
    adapt_as(built, recipe.backbone)
    model = placed(built, device)
    if ranks.count > 1:
        synchronise(model, device)
    if recipe.train.grad_checkpointing:
        checkpoint_gradients(model)
    return model


def checkpoint_gradients(model: Segmentor) -> None:
    """Let the backbone recompute its activations in the backward pass (Chen et al., 2016, sublinear memory)."""
    if not model.backbone.set_grad_checkpointing():
        raise ValueError(
            f"train.grad_checkpointing must be false for {model.backbone.name!r}, for which timm has no switch, got "
            "true; use a larger train.accumulate instead"
        )


def steps_of(trial: Trial) -> int:
    """Updates per epoch."""
    recipe, split = trial.recipe, trial.split
    if trial.extra is None:
        return steps_per_epoch(recipe, split)
    return trial.extra.num_batches(len(split.train_ids), recipe.train.batch_size)


def steps_per_epoch(recipe: Recipe, split: Split) -> int:
    """Updates per epoch: whole batches only."""
    return len(split.train_ids) // recipe.train.batch_size
