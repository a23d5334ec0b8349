"""Backbones and heads as one network, and the weights that they start from."""

__all__ = [
    "backbone_names",
    "backbones",
    "beit",
    "compatibility",
    "feature_extractor",
    "heads",
    "hierarchical",
    "input_sizes",
    "load",
    "mix_transformer",
    "plain_vit",
    "pretrained",
    "probability_mean",
    "resize",
    "segmentor",
    "simple_pyramid",
    "weights_file",
]  # modules
