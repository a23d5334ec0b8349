"""Writes a data card for the parts that were found, with what is left to the user as comments."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from analysis.card_draft.find_parts import FoundMasks, FoundPart, files_of, find_coco, find_masks, image_folders
from trainables.data.card import FILE_KEYS
from trainables.data.foreign_formats import foreign_hint

VOID = 255  # the usual value of pixels that count for nothing
ASIDE = """\
# group: '^(scene_\\d+)'             # images with the same match stay on one side of a split
# ignore: [void]                    # classes that count for neither loss nor score
# flip_pairs: [[left_shoe, right_shoe]]   # classes that change places where an image is mirrored
# licence: CC BY 4.0
"""


@dataclass(frozen=True)
class Draft:
    """The text of a card, and a line for each part that it names."""

    text: str
    lines: tuple[str, ...]


def draft_card(root: Path) -> Draft:
    """A card for what lies in `root`, its paths relative to it.

    Raises ValueError where there are neither COCO files nor images with masks, with what it looks like instead.
    """
    if not root.is_dir():
        raise ValueError(f"segsearch init needs a folder, got {root}; give the folder of your data set")
    files = files_of(root)
    folders = image_folders(root, files)
    coco = find_coco(root, files, list(folders))
    listed = frozenset[Path]().union(*(part.images for part in coco))
    masks = find_masks(root, folders)
    doubled = [part for part in masks if part.images <= listed]
    parts: list[FoundPart] = [*coco, *(part for part in masks if part not in doubled)]
    if not any(part.role == "train" for part in parts):
        labelled = [part for part in parts if part.role != "unlabelled"]
        if len(labelled) != 1:
            num_images = sum(map(len, folders.values()))
            raise ValueError(
                f"a data set needs COCO files, or images and masks of the same names, got {root} with {num_images} "
                f"images in {len(folders)} folders{foreign_hint(root, str(root)) or '; put the labels beside them'}"
            )
        parts = [FoundPart("train", labelled[0].value, labelled[0].seen), *(p for p in parts if p is not labelled[0])]
    lines = [f"# Written by segsearch init from what lies in this folder; change what is wrong.\nname: {root.name}\n"]
    for role in FILE_KEYS:
        lines.append(_written(role, [part for part in parts if part.role == role]))
    lines += [f"# also here, of images that the COCO files list: {_flow(part.value)}\n" for part in doubled]
    if len(doubled) < len(masks):
        lines.append(_classes([part for part in masks if part not in doubled]))
    told = tuple(f"{part.role}: {part.seen}" for part in sorted(parts, key=lambda part: FILE_KEYS.index(part.role)))
    return Draft("".join([*lines, ASIDE]), told)


def _written(role: str, parts: Sequence[FoundPart]) -> str:
    absent = {
        "val": "# val: a file or folder as above     # carved from train where absent\n",
        "holdout": "# holdout: as above                  # carved where absent; opened once, at the verdict\n",
        "unlabelled": "# unlabelled: a folder of images     # for distillation and pseudo labels\n",
    }
    if not parts:
        return absent[role]
    values = [part.value for part in parts]
    seen = "; ".join(part.seen for part in parts)
    return f"{role}: {_flow(values[0] if len(values) == 1 else values)}  # {seen}\n"


def _classes(masks: Sequence[FoundMasks]) -> str:
    """The values of the masks with names to be replaced."""
    values = sorted(set().union(*(part.values for part in masks)), key=lambda v: (isinstance(v, str), v))
    numbers = [v for v in values if isinstance(v, int)]
    others = [v for v in numbers if v != VOID]
    counted = bool(others) and others == list(range(others[0], others[-1] + 1)) and VOID in numbers
    named = [v for v in values if not (counted and v == VOID)]
    table = {v: "background" if v in (0, "#000000") else f"class_{v}".replace("#", "") for v in named}
    void = f"; {VOID} is taken as ignored" if counted else ""
    return f"classes: {_flow(table)}  # the values of some masks{void}: give them their names\n"


def _flow(value: Any) -> str:
    return yaml.safe_dump(value, default_flow_style=True, width=10_000, sort_keys=False).removesuffix("...\n").strip()
