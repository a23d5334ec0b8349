"""Converts what labelling tools export to COCO and a data card. `readers.READERS` lists the formats."""

__all__ = [
    "cityscapes",
    "cvat",
    "input_folder",
    "labelme",
    "outlines",
    "readers",
    "source",
    "stacking",
    "voc",
    "write_set",
    "xml_events",
    "yolo",
]  # modules
