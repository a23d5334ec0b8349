"""One recipe in; a trained model and its logits out."""

from pathlib import Path

from trainables.kernel_cache import use_own_folder

__all__ = [
    "data", "files", "fit", "fit_fold", "kernel_cache", "logits", "metrics", "models", "ranks", "ray_trainable",
    "recipe", "training", "worker_process",
]  # fmt: skip

use_own_folder(Path(__file__).parents[1])
