"""From a recipe to trained weights."""

__all__ = [
    "attempt",
    "checkpoint",
    "distillation",
    "epoch",
    "fit",
    "launch_ranks",
    "losses",
    "memory_estimate",
    "optim",
    "soup",
    "state",
    "sync_batch_norm",
    "training_step",
    "trial",
    "validate",
]  # modules
