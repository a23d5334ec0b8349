"""One recipe in; a trained model and its logits out."""

from pathlib import Path

from trainables.kernel_cache import use_own_folder

use_own_folder(Path(__file__).parents[1])
