"""From a recipe to trained weights."""

__all__ = [
    "attempt",
    "checkpoint",
    "consistency",
    "distillation",
    "epoch",
    "fit",
    "launch_ranks",
    "losses",
    "memory_estimate",
    "optim",
    "self_training",
    "soup",
    "state",
    "sync_batch_norm",
    "training_step",
    "trial",
    "validate",
]  # modules
