"""The computed columns of docs/models.md: parameters, and the memory that the product's own gate estimates.

python tests/docs/models_figures.py [WEIGHTS ...]   # writes both columns anew, of all rows or these; minutes
python tests/docs/models_figures.py --check         # says which rows are not what is computed
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
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


def with_figures(line: str) -> str:
    """A line of the page, both columns as they are computed today where it is a row of weights."""
    for name, cells in rows(line).items():
        found = cells | {"params": params_m(name), "memory": memory_gb(name)}
        line = "| " + " | ".join(found[column] for column in COLUMNS) + " |"
        print(line, flush=True)
    return line


def main(names: Sequence[str], *, check: bool) -> None:
    """Each row is written as soon as it is there."""
    lines, wrong = PAGE.read_text(encoding="utf-8").splitlines(), []
    unknown = set(names) - set(rows("\n".join(lines)))
    if unknown:
        sys.exit(f"rows of {PAGE.name} must be asked for by their weights, got {', '.join(sorted(unknown))}")
    for n, line in enumerate(lines):
        if not names or rows(line).keys() & set(names):
            lines[n] = with_figures(line)
            wrong += [lines[n]] if lines[n] != line else []
            if lines[n] != line and not check:
                PAGE.write_text("\n".join(lines) + "\n", encoding="utf-8")
    if wrong and check:
        sys.exit("\n".join([f"{PAGE.name} differs from what is computed:", *wrong]))


if __name__ == "__main__":
    options = sys.argv[1:]
    main([name for name in options if name != "--check"], check="--check" in options)
