"""Data sets: read, split, decoded once, augmented.

albumentations asks the network for a newer version when it is imported, unless NO_ALBUMENTATIONS_UPDATE is set: so it
is set first.
"""

import os

__all__ = [  # modules
    "augment", "cache", "card", "coco", "coco_writer", "image_file", "index", "mask_sizes", "raster", "splits",
    "synthetic",
]  # fmt: skip

os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
