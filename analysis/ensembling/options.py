"""How an ensemble is fitted and judged."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from analysis.ensembling.fit_postprocess import Mode
from trainables.recipe.config import Config


class EnsembleOptions(Config):
    """How the ensemble is fitted and judged. Equal options and logits give equal results."""

    seed: int = 0
    folds: Annotated[int, Field(ge=2)] = 5
    resamples: Annotated[int, Field(ge=100)] = 2000
    sample_bytes: Annotated[int, Field(ge=2**20)] = 2**30
    views: tuple[str, ...] | None = None  # names to choose from; every view that was predicted where None
    latency_budget_ms: Annotated[float, Field(gt=0.0)] | None = None  # an image; None: no limit
    temperature: Literal["off", "auto"] = "auto"  # auto: calibrated members are offered, and taken where they pay
    max_sweeps: Annotated[int, Field(ge=1)] = 20
    postprocess: Mode = "auto"  # specks and holes out of the label maps, where that pays
