"""How an ensemble is fitted and judged: the options of `segsearch ensemble`, and of a space's `ensemble`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from trainables.recipe.config import Config


class EnsembleOptions(Config):
    """How the rules are fitted and judged. Equal options, seeds and logits give equal results."""

    folds: Annotated[int, Field(ge=2)] = 5  # of the cross-fit
    resamples: Annotated[int, Field(ge=100)] = 2000  # of the paired bootstrap
    sample_mb: Annotated[int, Field(ge=1)] = 256  # MiB of probabilities of the pixels that weights are fitted on
    max_sweeps: Annotated[int, Field(ge=1)] = 20  # over all weights, of one exact search
    latency_budget_ms: Annotated[float, Field(gt=0.0)] | None = None  # per image, on the devices that made the logits
    temperature: Literal["off", "auto"] = "auto"  # auto: calibrated members are offered, and used where they help
    stacking: Literal["off", "auto"] = "auto"  # auto: offered as the richest rule; it takes most of the fit's time
    confidence: Annotated[float, Field(ge=0.5, lt=1.0)] = 0.9  # share of resamples in which a richer rule must gain
    postprocess: Literal["off", "auto"] = "auto"  # small components and holes, removed only if that helps
