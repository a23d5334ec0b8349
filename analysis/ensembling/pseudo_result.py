"""What pseudo.json holds (format segsearch-pseudo/1), as frozen models, and its reading and writing."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError, model_validator

from analysis.ensembling.distilled_result import Comparison
from analysis.ensembling.result import Gain, HoldoutOpening
from trainables.files import write_text
from trainables.recipe.config import Config

FORMAT: Literal["segsearch-pseudo/1"] = "segsearch-pseudo/1"
Schedule = Literal["scratch", "continue", "continue_then_real", "consistency"]
UNREAD: Mapping[Schedule, tuple[str, ...]] = {  # options that a schedule does not read
    "scratch": ("lr_factor", "confidence", "consistency_weight"),
    "continue": ("confidence", "consistency_weight"),
    "continue_then_real": ("confidence", "consistency_weight"),
    "consistency": ("rounds", "target_precision", "min_certain", "cap", "lr_factor"),
}
Share = Annotated[float, Field(ge=0.0, le=1.0)]


class PseudoOptions(Config):
    """How a student learns from pseudo labels."""

    schedule: Schedule = Field(
        default="scratch",
        description="scratch: train the recipe anew on labels and pseudo labels; continue: go on with the trial's "
        "weights on both; continue_then_real: then on the labels alone; consistency: anew, with the network's own "
        "predictions of weak views as labels of strong ones, and no teacher",
    )
    rounds: Annotated[int, Field(ge=1, le=10)] = Field(default=1, description="each student teaches the next")
    rule: str | None = Field(default=None, description="the first teacher; null: the verdict's rule")
    trial: str | None = Field(default=None, description="whose recipe the student has; null: the best single model's")
    target_precision: Share = Field(default=0.9, description="of a class's pseudo labels, as measured")
    min_certain: Share = Field(default=0.1, description="share of an image that must be certain, else it is dropped")
    cap: Annotated[float, Field(ge=1.0)] = Field(
        default=20.0, description="times the certain pixels of the median class that a class may have"
    )
    share: Share = Field(default=0.5, description="of a batch: images with pseudo labels")
    epochs: Annotated[int, Field(ge=1)] | None = Field(default=None, description="of each training; null: the recipe's")
    lr_factor: Annotated[float, Field(gt=0.0, le=10.0)] = Field(
        default=0.3, description="of the recipe's learning rate, where weights are gone on with"
    )
    confidence: Share = Field(
        default=0.95, description="of consistency: from which on a pixel's prediction is its label"
    )
    consistency_weight: Annotated[float, Field(gt=0.0)] = Field(
        default=1.0, description="of the unlabelled images' loss"
    )

    @model_validator(mode="after")
    def _reads_what_is_given(self) -> PseudoOptions:
        fields = type(self).model_fields
        idle = [name for name in UNREAD[self.schedule] if getattr(self, name) != fields[name].default]
        if idle:
            raise ValueError(
                f"options must be ones that the schedule {self.schedule} reads, got {', '.join(idle)}; leave them out"
            )
        return self


class PseudoRound(Config):
    """One teacher's labels, and what came of them."""

    teacher: str
    labels: str = Field(description="fingerprint of pseudo_labels.json; empty where no image was certain enough")
    images: int
    dropped: int = Field(description="images with too little certain area")
    certain: Share | None = Field(description="share of the images' pixels, on average; null: not known beforehand")
    gain: Gain | None = Field(description="on val, over the same recipe without pseudo labels; null: not trained")
    helped: bool = Field(description="whether the gain on val holds")
    reason: str


class PseudoResult(Config):
    """pseudo.json."""

    format: Literal["segsearch-pseudo/1"]
    options: PseudoOptions
    trial: str = Field(description="whose recipe the student has")
    rounds: tuple[PseudoRound, ...]
    comparison: Comparison | None = Field(
        description="of the last round that helped on val; `single` is the same recipe without pseudo labels; null "
        "where none did, and the hold-out was left alone"
    )
    helped: bool = Field(description="whether the gain on the hold-out lies above 0")
    sentence: str
    caveats: tuple[str, ...]
    holdout_opened: tuple[HoldoutOpening, ...] = Field(description="oldest first")

    @classmethod
    def read(cls, path: Path) -> PseudoResult:
        """Raises ValueError naming the file where it is missing, cut short or of another format."""
        try:
            return cls.model_validate_json(path.read_bytes())
        except (OSError, ValidationError) as error:
            raise ValueError(
                f"{path} must have the format {FORMAT}, got another file ({str(error).splitlines()[0]}); delete it and "
                "run `segsearch pseudo` again"
            ) from None

    def write(self, path: Path) -> None:
        """Write the file whole or not at all. Raises ValueError where a score is NaN."""
        write_text(path, json.dumps(self.model_dump(mode="json"), indent=1, allow_nan=False) + "\n")
