"""The computed columns of docs/models.md: parameters, and the memory that the product's own gate estimates.

python tests/docs/models_figures.py             # writes both columns anew; minutes
python tests/docs/models_figures.py --check     # says which rows are not what is computed
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import torch

from trainables.models.backbones import build_backbone
from trainables.recipe.recipe import Recipe
from trainables.training.memory_estimate import footprint

PAGE = Path(__file__).parents[2] / "docs" / "models.md"
COLUMNS = ("name", "params", "memory", "licence", "multiple", "miou", "source")
CROP_PX, NUM_CLASSES = 512, 150
GIB = 2**30


def rows(text: str) -> dict[str, dict[str, str]]:
    """Name of the weights -> the cells of its row."""
    found = {}
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if re.match(r"\| `\w+(\.\w+)?` \|", line) and len(cells) == len(COLUMNS):
            found[cells[0].strip("`")] = dict(zip(COLUMNS, cells, strict=True))
    return found


def recipe_of(name: str) -> Recipe:
    values = {
        "backbone": {"name": name, "pretrained": False},
        "head": {"name": "upernet"},
        "augmentation": {"crop_px": CROP_PX},
        "train": {"amp": "bf16"},
    }
    return Recipe.model_validate(values)


def params_m(name: str) -> str:
    """Millions of parameters of the backbone, without a classifier."""
    with torch.device("meta"):
        body = build_backbone(recipe_of(name).backbone).body
    return f"{sum(parameter.numel() for parameter in body.parameters()) / 1e6:.1f}"


def memory_gb(name: str) -> str:
    """GiB that stay, and that each image of a micro-batch adds."""
    found = footprint(recipe_of(name), NUM_CLASSES, low_precision=True)
    return f"{found.fixed_bytes / GIB:.1f} + {found.image_bytes / GIB:.2f}"


def computed(text: str) -> str:
    """The page with both columns as they are computed today."""
    lines = text.splitlines()
    found = rows(text)
    for n, line in enumerate(lines):
        [name] = [name for name in found if line.startswith(f"| `{name}` |")] or [""]
        if name:
            cells = found[name] | {"params": params_m(name), "memory": memory_gb(name)}
            lines[n] = "| " + " | ".join(cells[column] for column in COLUMNS) + " |"
            print(lines[n], flush=True)
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    before = PAGE.read_text(encoding="utf-8")
    after = computed(before)
    if "--check" in sys.argv:
        wrong = [line for line in after.splitlines() if line not in before.splitlines()]
        sys.exit("\n".join(["docs/models.md differs from what is computed:", *wrong]) if wrong else 0)
    PAGE.write_text(after, encoding="utf-8")
