"""The train set: crops, augmentation, mixing."""

__all__ = [
    "build_transforms",
    "consistency_set",
    "crop",
    "geometry",
    "mix_sources",
    "mixing",
    "offline_mix",
    "photometric",
    "pipeline",
    "source_map",
    "train_set",
]  # modules
