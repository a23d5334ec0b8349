"""What a tracker is made with, and what it is told when the run has a verdict."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from search.run_dir import RunDir

SCALARS = ("epoch", "lr", "images_per_s", "diverged", "failed", "time_this_iter_s")  # besides train/... and val/...


@dataclass(frozen=True)
class SearchInfo:
    """The search that is tracked."""

    run: RunDir
    classes: tuple[str, ...] = ()  # (K,)


@dataclass(frozen=True)
class Outcome:
    """What a run came to."""

    verdict: str  # one sentence
    rules: Sequence[Mapping[str, Any]]  # a row per rule, all of the same columns
    bundle: Path  # folder of what ships
    report: Path
    samples: Mapping[Path, str] = field(default_factory=dict)  # pictures of hold-out images -> their captions


def scalars(metrics: Mapping[str, Any], class_names: Sequence[str]) -> dict[str, float]:
    """An epoch's numbers by name, per-class IoU as `val/iou/<class>`; what is not finite is left out."""
    values = {key: value for key, value in metrics.items() if "/" in key or key in SCALARS}
    for name, iou in zip(class_names, values.pop("val/iou", ()), strict=False):
        values[f"val/iou/{name}"] = iou
    return {key: float(value) for key, value in values.items() if _is_number(value)}


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)


def plain_names(names: Sequence[str]) -> list[str]:
    """Class names in the letters that MLflow takes (those of \\w, blank, `-`, `.`, `:`), each still different."""
    taken: list[str] = []
    for number, name in enumerate(names):
        plain = re.sub(r"[^\w.\- :]", "_", name).strip(" .") or "class"
        taken.append(f"{plain}_{number}" if plain in taken else plain)
    return taken
