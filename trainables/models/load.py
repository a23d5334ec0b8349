"""Loads a trained network from its recipe and its safetensors files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from trainables.models.probability_mean import Network, ProbabilityMean
from trainables.models.segmentor import Segmentor, build_segmentor
from trainables.models.weights_file import load_weights
from trainables.recipe.recipe import Recipe


def load_model(recipe: Recipe, num_classes: int, weights: Path) -> Segmentor:
    """The network of `recipe` with the weights of a safetensors file, on the CPU, ready to predict.

    Raises ValueError where the file is absent, cut short, or of another network.
    """
    tensors = load_weights(weights)
    try:
        _check_shapes(recipe, num_classes, tensors)  # before memory is taken: a recipe may ask for any
        model = build_segmentor(recipe, num_classes, pretrained=False)
        model.load_state_dict(tensors)
    except (RuntimeError, TypeError) as error:
        first = (str(error).splitlines()[1:2] or [str(error)])[0].strip()[:200]
        raise ValueError(
            f"{weights} must hold the weights of {recipe.backbone.name} with the head {recipe.head.name}, got others "
            f"({first}); use the versions of timm and segmentation-models-pytorch that wrote it"
        ) from error
    return model.eval()


def load_network(recipe: Recipe, num_classes: int, weights: Sequence[Path]) -> Network:
    """`load_model` of the one file; of several, the mean of their networks' probabilities. ValueError as there."""
    models = [load_model(recipe, num_classes, path) for path in weights]
    return models[0] if len(models) == 1 else ProbabilityMean(models).eval()


def _check_shapes(recipe: Recipe, num_classes: int, tensors: Mapping[str, Tensor]) -> None:
    """Raises RuntimeError, as `load_state_dict` does, where the tensors are not those of the network; takes no memory
    for it."""
    with torch.device("meta"):
        network = build_segmentor(recipe, num_classes, pretrained=False)
    network.load_state_dict({name: tensor.to("meta") for name, tensor in tensors.items()}, assign=True)
