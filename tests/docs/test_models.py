"""The table of docs/models.md against timm's own tags."""

from __future__ import annotations

import math

import pytest
from docs.models_figures import PAGE, memory_gb, params_m, rows

from search.space.space import load_space
from search.space.space_file import shipped_spaces
from trainables.models.compatibility import patch_px
from trainables.models.input_sizes import MULTIPLE_PX
from trainables.models.licences import SEGFORMER_LICENCE, published_licence

ROWS = rows(PAGE.read_text(encoding="utf-8"))
SMALL = [name for name, row in ROWS.items() if row["params"] and float(row["params"]) < 30]


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
    assert (ROWS[name]["miou"] == "not reported") == (ROWS[name]["source"] == "")


@pytest.mark.parametrize("name", SMALL)
def test_parameters_are_those_of_the_backbone(name: str) -> None:
    """Of the small ones; `models_figures.py --check` builds them all."""
    assert ROWS[name]["params"] == params_m(name)


@pytest.mark.parametrize("name", SMALL[:1])
def test_memory_is_what_the_gate_of_a_search_estimates(name: str) -> None:
    assert ROWS[name]["memory"] == memory_gb(name)
