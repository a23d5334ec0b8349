"""Optimiser and schedule of a trial, both timm's.

The optimiser's groups carry their weight decay and, under layer decay, `lr_scale`; the schedule is stepped every
update.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from timm.optim import create_optimizer_v2  # type: ignore[attr-defined, unused-ignore]
from timm.scheduler.cosine_lr import CosineLRScheduler

from trainables.recipe.recipe import Optimizer

if TYPE_CHECKING:
    from trainables.models.segmentor import Segmentor

FUSED = ("adamw", "sgd")  # torch's; timm's own optimisers have no such switch


def build_optimizer(model: Segmentor, cfg: Optimizer) -> torch.optim.Optimizer:
    """Layer i of the backbone's L learns at lr * layer_decay^(L - i); the head at lr.

    (Clark et al., ELECTRA, 3.1; Bao et al., BEiT, 3.) One-dimensional parameters (norms, biases, scales) and what timm
    names in `no_weight_decay` (position embeddings, bias tables) are not decayed.
    Raises ValueError where layer decay is asked of a backbone whose layers timm does not order.
    """
    layerwise = cfg.layer_decay != 1.0
    if layerwise and not any(model.backbone.layer_of.values()):
        raise ValueError(
            f"layer_decay needs a backbone whose layers timm orders (a group_matcher), got {cfg.layer_decay} with one "
            "that has none; use layer_decay 1 or another backbone"
        )
    on_cuda = next(model.parameters()).device.type == "cuda"
    # one kernel for all tensors instead of one each
    options: dict[str, Any] = {"fused": True} if on_cuda and cfg.name in FUSED else {}
    return create_optimizer_v2(
        model,
        opt=cfg.name,
        lr=cfg.lr,
        weight_decay=cfg.weight_decay,
        layer_decay=cfg.layer_decay if layerwise else None,
        **options,
    )


def build_schedule(
    optimizer: torch.optim.Optimizer, cfg: Optimizer, num_epochs: int, steps_per_epoch: int
) -> CosineLRScheduler:
    """Linear warm-up to lr, then half a cosine down to lr * min_lr_factor (Loshchilov and Hutter, SGDR, eq. 5).

    It sets the rate of update 0 at once; call `step_update(n)` after n updates for the next one's.
    """
    num_updates = num_epochs * steps_per_epoch
    warmup = round(cfg.warmup_epochs * steps_per_epoch)
    return CosineLRScheduler(
        optimizer,
        t_initial=max(1, num_updates - warmup),
        lr_min=cfg.lr * cfg.min_lr_factor,
        warmup_t=warmup,
        warmup_lr_init=cfg.lr / (warmup + 1),  # a first update at rate 0 would be wasted
        warmup_prefix=True,
        t_in_epochs=False,
    )
