"""Data sets: read, split, decoded once, augmented.

albumentations asks the network for a newer version when it is imported, unless NO_ALBUMENTATIONS_UPDATE is set: so it
is set first.
"""

import os

__all__ = [
    "augment",
    "cache",
    "card",
    "class_table",
    "coco",
    "coco_writer",
    "flip_pairs",
    "folder_parts",
    "foreign_formats",
    "image_file",
    "image_folder",
    "index",
    "label_sources",
    "loaded_part",
    "mask_sizes",
    "masks",
    "raster",
    "reader",
    "splits",
    "synthetic",
]  # modules

os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
