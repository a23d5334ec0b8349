"""The table of docs/models.md against timm's own tags."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest

from search.space.space import load_space
from search.space.space_file import shipped_spaces
from trainables.models.compatibility import patch_px
from trainables.models.input_sizes import MULTIPLE_PX
from trainables.models.licences import SEGFORMER_LICENCE, published_licence

TEXT = (Path(__file__).parents[2] / "docs" / "models.md").read_text(encoding="utf-8")
COLUMNS = ("name", "licence", "multiple", "miou", "source")
ROWS = {
    cells[0].strip("`"): dict(zip(COLUMNS, cells, strict=True))
    for line in TEXT.splitlines()
    if re.match(r"\| `\w+(\.\w+)?` \|", line)
    for cells in [[cell.strip() for cell in line.strip("|").split("|")]]
    if len(cells) == len(COLUMNS)
}


def test_every_pretrained_backbone_of_a_shipped_space_has_a_row() -> None:
    names: set[str] = set()
    for space in shipped_spaces():
        if space != "base.yaml":
            names |= {n for p in load_space(space).parameters() if p.name.endswith("backbone") for n in p.values}
    assert names <= set(ROWS)


@pytest.mark.parametrize("name", ROWS)
def test_licence_and_image_multiple_are_timms(name: str) -> None:
    said = {SEGFORMER_LICENCE: "NVIDIA's"}
    licence = published_licence(name)
    assert ROWS[name]["licence"].strip("`") == said.get(licence, licence)
    assert int(ROWS[name]["multiple"]) == math.lcm(MULTIPLE_PX, patch_px(name) or 1)
    assert bool(ROWS[name]["miou"]) == bool(ROWS[name]["source"])
