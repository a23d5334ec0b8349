"""The registry of foreign formats: the reader of each."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from analysis.conversion.cityscapes import read_cityscapes
from analysis.conversion.cvat import read_cvat
from analysis.conversion.input_folder import InputFolder
from analysis.conversion.labelme import read_labelme
from analysis.conversion.source import SourceSet
from analysis.conversion.voc import read_voc
from analysis.conversion.yolo import read_yolo

READERS: Mapping[str, Callable[[InputFolder], SourceSet]] = {
    "labelme": read_labelme,
    "cvat": read_cvat,
    "voc": read_voc,
    "yolo": read_yolo,
    "cityscapes": read_cityscapes,
}
